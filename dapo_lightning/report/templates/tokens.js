// A completion as coloured tokens.
const MODES = {
  text: ["plain text", null],
  probability: ["probability", "how likely the policy thought each token, before the update"],
  entropy: ["entropy", "how undecided the policy was before each token"],
  advantage: ["advantage", "which way the update pushes each token"],
  ratio: ["ratio", "how far the update moved each probability: new / old"],
  clip: ["held by the clip", "tokens whose gradient the clip removes after the update; underlined in every view"],
};
const mix = (colour, share) => `color-mix(in srgb, ${colour} ${Math.round(100 * Math.min(1, Math.max(0, share)))}%, transparent)`;
function background(mode, tokens, i) {
  if (tokens.masked[i]) return "";
  if (mode === "probability") return mix("var(--c1)", 0.75 * (1 - Math.exp(tokens.old[i])));
  if (mode === "entropy") return mix("var(--c3)", tokens.entropy[i] / 3);
  if (mode === "advantage") return mix(tokens.advantage[i] > 0 ? "var(--right)" : "var(--wrong)", Math.abs(tokens.advantage[i]) / 4);
  if (mode === "ratio") { const move = Math.log(tokens.ratio[i]); return mix(move > 0 ? "var(--c0)" : "var(--c1)", Math.min(0.8, Math.abs(move) * 3)); }
  if (mode === "clip") return tokens.held[i] ? mix(tokens.held[i] > 0 ? "var(--c3)" : "var(--c1)", 0.45) : "";
  return "";
}
const SCALES = {
  probability: ["1", "linear-gradient(90deg, transparent, color-mix(in srgb, var(--c1) 75%, transparent))", "0"],
  entropy: ["0", "linear-gradient(90deg, transparent, var(--c3))", "3 nats"],
  advantage: ["−", "linear-gradient(90deg, var(--wrong), transparent, var(--right))", "+"],
  ratio: ["× 0.77", "linear-gradient(90deg, color-mix(in srgb, var(--c1) 80%, transparent), transparent, color-mix(in srgb, var(--c0) 80%, transparent))", "× 1.3"],
};
function scale(mode) {
  const found = SCALES[mode];
  const about = MODES[mode][1];
  return el("div", { class: "scale" }, found ? [found[0], el("i", { style: { background: found[1] } }), found[2]] : null, about ? el("span", {}, about) : null);
}
function explain(tokens, i, x, y) {
  const chance = (logp) => (Math.exp(logp) < 0.0001 ? Math.exp(logp).toExponential(1) : Math.exp(logp).toFixed(4));
  tip.show(x, y, el("div", { class: "t0" }, JSON.stringify(visible(tokens.text[i]))), tokens.masked[i] ? el("div", {}, "not written by the policy") : rowsOf([
    ["probability before", chance(tokens.old[i])], ["probability after", chance(tokens.new[i])],
    ["ratio", fmt(tokens.ratio[i], 4)], ["entropy", fmt(tokens.entropy[i], 4) + " nats"],
    ["advantage", signed(tokens.advantage[i])], ["weight in the loss", fmt(tokens.weight[i], 5)],
    ["clip", tokens.held[i] > 0 ? "held above " + (data.clip.upper ?? "its bound") : tokens.held[i] < 0 ? "held below " + (data.clip.lower ?? "its bound") : "free"],
  ]));
}
function tokenText(completion, mode) {
  const tokens = completion.tokens;
  const spans = tokens.text.map((text, i) => el("span", { class: "t" + (tokens.held[i] > 0 ? " above" : tokens.held[i] < 0 ? " below" : "") + (tokens.masked[i] ? " masked" : ""), style: { background: background(mode, tokens, i) } }, visible(text)));
  const box = el("div", { class: "text" + (completion.length > 1500 ? " long" : ""), tabindex: 0, role: "group", "aria-label": "Tokens; arrow keys read their numbers" }, spans);
  let at = -1;
  function go(i) {
    if (at >= 0) spans[at].classList.remove("at");
    at = i;
    if (i < 0) return tip.hide();
    spans[i].classList.add("at");
    const place = spans[i].getBoundingClientRect();
    explain(tokens, i, place.left, place.bottom - 12);
  }
  box.addEventListener("pointermove", (event) => { const i = spans.indexOf(event.target); if (i >= 0) explain(tokens, i, event.clientX, event.clientY); else tip.hide(); });
  box.addEventListener("pointerleave", () => tip.hide());
  box.addEventListener("blur", () => go(-1));
  box.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -spans.length, End: spans.length }[event.key];
    if (!by) return;
    event.preventDefault();
    go(Math.max(0, Math.min(spans.length - 1, at + by)));
  });
  return box;
}
