// The head of the page, its navigation, and the order of its sections.
function head() {
  const headline = [];
  const steps = Object.keys(data.held_out || {});
  if (steps.length) {
    const first = data.held_out[steps[0]], last = data.held_out[steps.at(-1)];
    const add = (key, label) => headline.push(el("div", { class: "big" }, el("dt", {}, label), el("dd", {}, el("span", { class: "from" }, (key in first ? first[key].toFixed(3) : "–") + " → "), last[key].toFixed(3))));
    Object.keys(last).filter((key) => /^(avg|maj)@\d+$/.test(key)).forEach((key) => add(key, key + ", held out"));
    for (const name of data.sets) Object.keys(last).filter((key) => key.startsWith(name + "/avg@") && !key.endsWith("_ci95")).forEach((key) => add(key, key.slice(name.length + 1) + ", " + name));
  }
  const themes = ["auto", "light", "dark"];
  let theme = 0;
  const button = el("button", { onclick: () => { theme = (theme + 1) % 3; document.documentElement.dataset.theme = themes[theme]; button.textContent = "theme: " + themes[theme]; } }, "theme: auto");
  $("top").append(el("div", { class: "head" }, el("div", {}, el("h1", {}, visible(data.name)), el("div", { class: "path" }, visible(data.folder))), button),
    el("dl", { class: "headline" }, headline, data.facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, visible(value))))));
}
function navigation() {
  const sections = [...document.querySelectorAll("section")];
  const links = sections.map((node) => el("a", { href: "#" + node.id, onclick: (event) => { event.preventDefault(); node.scrollIntoView(); } }, node.querySelector("h2").textContent));
  $("nav").append(el("div", {}, links));
  const mark = () => {
    const at = sections.findLastIndex((node) => node.getBoundingClientRect().top < innerHeight / 3);
    links.forEach((link, i) => (i === Math.max(0, at) ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}
const wanted = /^#group=(\d+)\.(\d+)$/.exec(location.hash);
head();
warnings();
if (data.kind === "sweep") sweepTables();
else {
  curves();
  stepPicture();
  browser();
  heldOut();
  settingsTable();
  const group = wanted && data.groups.find((one) => one.step === Number(wanted[1]) && one.number === Number(wanted[2]));
  const held = (one) => one.completions.reduce((sum, c) => sum + (c.tokens ? c.tokens.held.filter(Boolean).length + 0.5 : 0), 0);
  const first = group || data.groups.reduce((best, one) => (best && held(best) >= held(one) ? best : one), null);
  const steps = data.steps.filter((step) => step > 0);
  if (first || steps.length) change({ step: first ? first.step : steps.at(-1) });
  if (first) change({ group: first });
  if (group) $("completions").scrollIntoView();
}
navigation();
