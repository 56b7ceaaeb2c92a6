// A browser of groups, and one group with its completions.
const VERDICTS = { useful: "some right", all_correct: "all right", all_wrong: "all wrong" };
const FATES = { trained: "trained on", dropped: "dropped", not_needed: "not needed", carried: "carried", drawn_again: "drawn again" };
const promptOf = (group) => { const prompt = data.prompts[group.prompt]; return prompt.text || prompt.messages.map((message) => message.content).join("\n"); };
const dots = (group) => el("span", { class: "dots", role: "img", "aria-label": `${numRight(group)} of ${group.completions.length} right` }, group.completions.map((completion) => el("i", { class: completion.correct ? null : "no" })));
const mean = (group, name) => group.completions.reduce((sum, completion) => sum + (completion[name] || 0), 0) / group.completions.length;
const SORTS = {
  order: ["as drawn", (a, b) => a.step - b.step || a.number - b.number],
  mixed: ["closest to half right", (a, b) => Math.abs(mean(a, "correct") - 0.5) - Math.abs(mean(b, "correct") - 0.5)],
  rare: ["fewest right first", (a, b) => mean(a, "correct") - mean(b, "correct")],
  surprising: ["least probable", (a, b) => mean(a, "logp") - mean(b, "logp")],
  undecided: ["highest entropy", (a, b) => mean(b, "entropy") - mean(a, "entropy")],
  long: ["longest", (a, b) => mean(b, "length") - mean(a, "length")],
  pushed: ["pushed most", (a, b) => Math.max(...b.completions.map((c) => Math.abs(c.advantage || 0))) - Math.max(...a.completions.map((c) => Math.abs(c.advantage || 0)))],
};
const PAGE = 60;

function browser() {
  if (!data.groups.length) return;
  const filter = { step: "all", kind: "all", only: "all", sort: "order", text: "" };
  const list = el("div", { class: "list", role: "region", "aria-label": "Groups" }), detail = el("div", { class: "detail" }), count = el("p", { class: "small", role: "status" });
  const steps = [...new Set(data.groups.map((group) => group.step))];
  const kinds = [["all", "all groups"], ...Object.entries(FATES).filter(([fate]) => data.groups.some((group) => group.fate === fate)).map(([fate, text]) => ["f:" + fate, text]), ...Object.entries(VERDICTS).map(([verdict, text]) => ["v:" + verdict, text])];
  const only = [["all", "any completion"], ["tokens", "with tokens recorded"], ["truncated", "with truncated ones"], ["failure", "with failed grading"], ["noanswer", "with no answer found"], ["held", "with tokens held by the clip"]];
  const set = (name) => (value) => { filter[name] = value; refresh(); };
  const stepChoice = choice("Step", [["all", "all steps"], ...steps.map((step) => [String(step), String(step)])], "all", set("step"));
  const search = el("input", { type: "search", placeholder: "in prompts and completions  ( / )", oninput: () => { clearTimeout(search.timer); search.timer = setTimeout(() => set("text")(search.value.toLowerCase()), 120); } });
  section("completions", "Completions", "Everything that the policy wrote, trained on or not. Where single tokens were recorded, colours show what the update did to them.",
    el("div", { class: "filters" }, stepChoice, choice("Groups", kinds, "all", set("kind")), choice("Completions", only, "all", set("only")), choice("Order", Object.entries(SORTS).map(([key, [text]]) => [key, text]), "order", set("sort")), el("label", {}, "Search", search)),
    count, el("div", { class: "browser" }, list, detail));
  let found = [], shown = 0;
  const has = (group, test) => group.completions.some(test);
  function matches(group) {
    if (filter.step !== "all" && group.step !== Number(filter.step)) return false;
    const [what, value] = filter.kind.split(":");
    if ((what === "f" && group.fate !== value) || (what === "v" && group.verdict !== value)) return false;
    if (filter.only === "tokens" && !group.tokens) return false;
    if (filter.only === "truncated" && !has(group, (c) => c.truncated)) return false;
    if (filter.only === "failure" && !has(group, (c) => c.failure)) return false;
    if (filter.only === "noanswer" && !has(group, (c) => c.answer === undefined)) return false;
    if (filter.only === "held" && !has(group, (c) => c.tokens && c.tokens.held.some(Boolean))) return false;
    return !filter.text || promptOf(group).toLowerCase().includes(filter.text) || has(group, (c) => c.text.toLowerCase().includes(filter.text));
  }
  function entry(group) {
    return el("button", { "aria-current": group === state.group ? "true" : null, onclick: () => change({ group, step: group.step }) }, el("span", { class: "prompt" }, visible(promptOf(group)).replace(/\s+/g, " ").slice(0, 120)), dots(group),
      el("span", { class: "about" }, `step ${group.step} · ${FATES[group.fate] || group.fate}${group.fate === "trained" ? "" : ", " + (VERDICTS[group.verdict] || group.verdict)}${group.tokens ? " · tokens" : ""}`));
  }
  function more() {
    list.querySelector(".more")?.remove();
    list.append(...found.slice(shown, shown + PAGE).map(entry));
    shown += PAGE;
    if (shown < found.length) list.append(el("button", { class: "more", onclick: more }, `show more (${found.length - shown} left)`));
  }
  function refresh() {
    found = data.groups.filter(matches).sort(SORTS[filter.sort][1]);
    shown = 0;
    list.replaceChildren();
    list.scrollTop = 0;
    more();
    count.textContent = found.length ? `${found.length} of ${data.groups.length} groups` : "No group matches these filters.";
    if (found.length && !found.includes(state.group)) change({ group: found[0], step: found[0].step });
  }
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by || !list.contains(document.activeElement)) return;
    event.preventDefault();
    const buttons = [...list.children], next = buttons[buttons.indexOf(document.activeElement) + by];
    if (next) { next.focus(); if (!next.classList.contains("more")) next.click(); }
  });
  addEventListener("keydown", (event) => { if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) { event.preventDefault(); search.focus(); } });
  onChange((part) => {
    if ("group" in part && state.group) {
      [...list.children].forEach((node, i) => (found[i] === state.group ? node.setAttribute("aria-current", "true") : node.removeAttribute("aria-current")));
      history.replaceState(null, "", `#group=${state.group.step}.${state.group.number}`);
      detail.replaceChildren(...groupView(state.group));
    }
    if ("colour" in part && state.group) detail.replaceChildren(...groupView(state.group));
  });
  refresh();
}

function push(value) {
  const size = Math.min(1, Math.abs(value) / 4) * 50;
  return el("span", { class: "push", role: "img", "aria-label": "advantage " + signed(value) }, el("i", { style: value > 0 ? { left: "50%", width: size + "%", background: "var(--right)" } : { right: "50%", width: size + "%", background: "var(--wrong)" } }));
}
function completionView(completion) {
  const facts = [
    el("span", { class: "mark " + (completion.correct ? "yes" : "no") }, completion.correct ? "✓ right" : "✗ wrong"),
    completion.answer === undefined ? el("span", { class: "badge" }, "no answer found") : el("span", {}, "answer ", el("b", { class: "text" }, visible(completion.answer))),
    completion.stage ? el("span", {}, "by " + visible(completion.stage)) : null,
    el("span", {}, "reward " + signed(completion.reward) + (Math.abs(completion.reward - completion.score) > 1e-6 ? ` (score ${signed(completion.score)}, length ${signed(completion.reward - completion.score)})` : "")),
    completion.advantage === undefined ? null : el("span", {}, push(completion.advantage), " advantage " + signed(completion.advantage)),
    el("span", {}, completion.length + " tokens"),
    completion.truncated ? el("span", { class: "badge" }, "truncated") : null,
    completion.failure ? el("span", { class: "badge" }, "not graded: " + visible(completion.failure + " " + (completion.detail || ""))) : null,
    (completion.parts || []).map(([name, score]) => el("span", {}, visible(name) + " " + signed(score))),
    el("span", {}, "mean probability " + fmt(Math.exp(completion.logp))),
  ];
  const body = completion.tokens && state.colour !== "text" ? tokenText(completion, state.colour) : el("div", { class: "text" + (completion.text.length > 4000 ? " long" : "") }, visible(completion.text) || "(empty)");
  return el("div", { class: "completion" }, el("div", { class: "facts" }, facts), body);
}
function groupView(group) {
  const prompt = data.prompts[group.prompt];
  const said = prompt.messages.length ? prompt.messages.map((message) => el("div", {}, el("div", { class: "role" }, visible(message.role)), el("div", { class: "text" }, visible(message.content)))) : el("div", { class: "text" }, visible(prompt.text));
  const modes = el("div", { class: "switch", role: "radiogroup", "aria-label": "Colour of tokens" }, Object.entries(MODES).map(([mode, [name]]) => el("label", {}, el("input", { type: "radio", name: "colour", value: mode, checked: mode === state.colour, onchange: () => { change({ colour: mode }); document.querySelector(`input[name=colour][value=${mode}]`).focus(); } }), name)));
  const same = data.groups.filter((other) => other.prompt === group.prompt);
  return [
    el("div", { class: "facts" }, el("h3", {}, `Step ${group.step}, prompt ${group.number}`), el("span", { class: "small" }, `${numRight(group)} of ${group.completions.length} right · ${FATES[group.fate] || group.fate} · ${visible(prompt.source)}`)),
    el("div", { class: "prompt-box" }, said, el("div", { class: "small" }, "reference ", el("span", { class: "text" }, visible(prompt.reference)))),
    group.tokens ? el("div", {}, modes, scale(state.colour)) : el("p", { class: "small" }, group.fate === "trained" ? "The tokens of this group were not recorded (callbacks.rollouts.tokens_every, tokens_num_groups)." : "Not in the update, so there is nothing to show about its tokens."),
    ...group.completions.map(completionView),
    same.length > 1 ? el("div", {}, el("h3", { style: { "margin-top": "1rem" } }, "The same prompt over the steps"), el("div", { class: "over", tabindex: 0, role: "region", "aria-label": "The same prompt over the steps" }, same.map((other) => el("article", { "aria-current": other === group ? "true" : null },
      el("button", { onclick: () => change({ group: other, step: other.step }) }, "step " + other.step), " ", dots(other), el("div", { class: "small" }, `${numRight(other)} of ${other.completions.length} right · mean length ${fmt(mean(other, "length"), 1)}`),
      other.completions.slice(0, 6).map((completion) => el("div", { class: "text" }, el("span", { class: "mark " + (completion.correct ? "yes" : "no") }, completion.correct ? "✓ " : "✗ "), visible(completion.text).slice(0, 400))))))) : null,
  ].filter(Boolean);
}
