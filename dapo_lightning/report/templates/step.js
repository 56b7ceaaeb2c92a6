// One DAPO step as a picture: the groups, how they were used, and how long each phase took.
const LANES = [
  ["trained", null, "trained on", "in the update"],
  ["carried", null, "carried", "for the next step"],
  ["not_needed", null, "not needed", "useful, but the batch was full"],
  ["dropped", "all_correct", "all right", "dropped: nothing to learn"],
  ["dropped", "all_wrong", "all wrong", "dropped: nothing to compare with"],
  ["dropped", null, "dropped", ""],
  ["drawn_again", null, "drawn again", "generated ahead, not used"],
];
const TIMES = [["generate", "var(--c0)"], ["grade", "var(--c2)"], ["wait", "var(--c4)"], ["update", "var(--c1)"]];
const numRight = (group) => group.completions.reduce((sum, completion) => sum + completion.correct, 0);

function tile(group) {
  const right = numRight(group), size = group.completions.length;
  const node = el("button", { class: "tile" + (group.fate === "trained" ? "" : " away"), style: { "--share": 100 * right / size + "%" }, "aria-label": `prompt ${group.number}: ${right} of ${size} right`, "aria-current": group === state.group ? "true" : null,
    onclick: () => { change({ group }); $("completions").scrollIntoView(); } });
  node.group = group;
  const show = (x, y) => tip.show(x, y, el("div", { class: "t0" }, visible(promptOf(group)).slice(0, 200)), rowsOf([["right", right + " of " + size], ["mean length", fmt(group.completions.reduce((sum, c) => sum + c.length, 0) / size, 1)], ["tokens recorded", group.tokens ? "yes" : "no"]]));
  node.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
  node.addEventListener("focus", () => { const box = node.getBoundingClientRect(); if (node.matches(":focus-visible")) show(box.left, box.bottom); });
  for (const name of ["pointerleave", "blur"]) node.addEventListener(name, tip.hide);
  return node;
}
function stacked(parts, format) {
  const total = parts.reduce((sum, part) => sum + part[1], 0);
  return [el("div", { class: "stack", role: "img", "aria-label": parts.map((part) => part[0] + " " + format(part[1])).join(", ") }, parts.map(([name, value, colour]) => {
    const node = el("div", { style: { "flex": `${value} 0 0`, background: colour } });
    node.addEventListener("pointermove", (event) => tip.show(event.clientX, event.clientY, rowsOf([[name, format(value) + " · " + percent(value / total)]])));
    node.addEventListener("pointerleave", tip.hide);
    return node;
  })), el("div", { class: "key" }, parts.map(([name, value, colour]) => el("span", {}, el("i", { style: { "border-color": colour } }), name + " ", el("b", {}, format(value)))))];
}
function stepPicture() {
  const steps = data.steps.filter((step) => step > 0);
  if (!steps.length) return;
  const range = el("input", { type: "range", min: 0, max: steps.length - 1, value: 0, "aria-label": "DAPO step", oninput: () => change({ step: steps[range.value] }) });
  const output = el("output"), body = el("div", { class: "twocol" });
  const by = (n) => () => change({ step: steps[Math.max(0, Math.min(steps.length - 1, Number(range.value) + n))] });
  section("step", "One step", "Every tile is a group of completions of one prompt; the filled part is the share of right ones. Click a tile to read the group.",
    el("div", { class: "bar-row" }, output, el("button", { onclick: by(-1), "aria-label": "Previous step" }, "‹"), range, el("button", { onclick: by(1), "aria-label": "Next step" }, "›")), body);
  onChange((part) => {
    if (!("step" in part)) { if ("group" in part) mark(); return; }
    range.value = steps.indexOf(state.step);
    output.textContent = `step ${state.step} of ${steps.at(-1)}`;
    const at = data.steps.indexOf(state.step), metric = (name) => (data.metrics[name] || [])[at];
    const groups = data.groups.filter((group) => group.step === state.step), seen = new Set();
    const lanes = LANES.map(([fate, verdict, title, why]) => {
      const found = groups.filter((group) => group.fate === fate && (!verdict || group.verdict === verdict) && !seen.has(group));
      found.forEach((group) => seen.add(group));
      found.sort((a, b) => numRight(b) - numRight(a) || a.number - b.number);
      return found.length ? el("div", { class: "lane" }, el("div", { class: "what" }, el("b", {}, found.length + " " + title), el("small", {}, why)), el("div", { class: "tiles" }, found.map(tile))) : null;
    });
    const times = TIMES.map(([name, colour]) => [name, metric("seconds/" + name) || 0, colour]).filter((part) => part[1] > 0);
    const facts = [["accuracy, all groups used", percent(metric("accuracy") || 0)], ["sampling rounds", fmt(metric("sampling/rounds"))], ["groups generated per group trained on", fmt(metric("sampling/generated_per_trained"), 2)], ["tokens generated", fmt(metric("tokens/generated"))], ["tokens trained on", fmt(metric("tokens/trained"))], ["gradient steps", fmt(metric("gradient/steps"))], ["learning rate", fmt(metric("learning_rate"))], ["held by the clip, above", percent(metric("clip/upper_fraction") || 0)], ["held by the clip, below", percent(metric("clip/lower_fraction") || 0)]];
    body.replaceChildren(
      el("div", {}, el("h3", {}, groups.length ? groups.length + " groups were generated" : "The groups of this step are not on this page"), lanes),
      el("div", {}, el("h3", {}, "Time: " + fmt(times.reduce((sum, part) => sum + part[1], 0), 2) + " s"), el("div", { style: { margin: ".4rem 0 1rem" } }, times.length ? stacked(times, (value) => (value < 0.01 ? "< 0.01" : fmt(value, 2)) + " s") : null),
        el("table", { class: "data" }, facts.filter(([, value]) => value !== "–").map(([name, value]) => el("tr", {}, el("td", {}, name), el("td", { class: "n" }, value))))));
  });
  function mark() {
    for (const node of body.querySelectorAll(".tile")) {
      if (node.group === state.group) node.setAttribute("aria-current", "true");
      else node.removeAttribute("aria-current");
    }
  }
}
