// Line charts: drawn by hand, read by hovering or with the arrow keys.
const COLOURS = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw)), unit = raw / power;
  const size = (unit < 1.5 ? 1 : unit < 3.5 ? 2 : unit < 7.5 ? 5 : 10) * power;
  const found = [];
  for (let i = Math.ceil(low / size - 1e-9); i * size <= high + size * 1e-9; i++) found.push(+(i * size).toPrecision(12));
  return found;
}

// lines: [{label, points: [[x, y, low?, high?], ...]}]; options: {title, unit, xlabel, follow}
function chart(lines, options) {
  lines = lines.filter((line) => line.points.length);
  const height = options.height || 150, left = 44, right = 10, top = 8, bottom = 22;
  const key = el("div", { class: "key" });
  const picture = svg("svg", { height, role: "img", tabindex: 0, "aria-label": options.title + ": " + lines.map((line) => line.label + ", last value " + fmt(line.points.at(-1)[1])).join("; ") + ". Arrow keys read values." });
  const figure = el("figure", {}, el("figcaption", {}, el("h3", {}, options.title), options.unit ? el("span", { class: "unit" }, options.unit) : null), picture, key);
  const xs = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const ys = lines.flatMap((line) => line.points.flatMap((point) => point.slice(1))).filter((y) => y !== null && y !== undefined);
  let low = Math.min(...ys), high = Math.max(...ys);
  if (low >= 0 && low < 0.45 * high) low = 0;
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
  const [x0, x1] = [xs[0], xs.at(-1) === xs[0] ? xs[0] + 1 : xs.at(-1)];
  let width = 0, at = null;
  const px = (x) => left + (width - left - right) * (x - x0) / (x1 - x0);
  const py = (y) => top + (height - top - bottom) * (high - y) / (high - low);
  const many = lines.length > 6;
  const colour = (i) => lines[i].colour || COLOURS[i % COLOURS.length];
  const mark = svg("g");

  function draw() {
    width = picture.clientWidth || 300;
    const children = ticks(low, high, 3).map((y) => svg("g", {}, svg("line", { class: "grid", x1: left, x2: width - right, y1: py(y), y2: py(y) }), svg("text", { x: left - 6, y: py(y) + 4, "text-anchor": "end" }, fmt(y, high - low < 0.05 ? 3 : high - low < 0.5 ? 2 : 1).replace(/\.0$/, ""))));
    ticks(x0, x1, Math.max(2, width / 90)).forEach((x) => children.push(svg("text", { x: px(x), y: height - 5, "text-anchor": "middle" }, fmt(x, 1))));
    lines.forEach((line, i) => {
      const band = line.points.filter((point) => point[2] !== undefined && point[2] !== null);
      if (band.length > 1) children.push(svg("path", { class: "band", fill: colour(i), d: "M" + band.map((p) => px(p[0]) + "," + py(p[3])).join("L") + "L" + band.toReversed().map((p) => px(p[0]) + "," + py(p[2])).join("L") + "Z" }));
      children.push(svg("path", { class: "curve", stroke: colour(i), "stroke-dasharray": line.dash || null, d: "M" + line.points.map((p) => px(p[0]).toFixed(1) + "," + py(p[1]).toFixed(1)).join("L") }));
      if (line.points.length < 12) line.points.forEach((p) => children.push(svg("circle", { cx: px(p[0]), cy: py(p[1]), r: 2.5, fill: colour(i) })));
    });
    picture.replaceChildren(...children, mark);
    place(at);
  }
  function nearest(line, x) { return line.points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best)); }
  // The mark stays at the chosen step; the key shows the last values except while somebody reads others.
  function place(x, isRead = false) {
    at = x;
    key.replaceChildren(...lines.map((line, i) => {
      const point = isRead ? nearest(line, x) : line.points.at(-1);
      return el("span", {}, el("i", { style: { "border-color": colour(i), "border-top-style": line.dash ? "dashed" : "solid" } }), visible(line.label) + " ", el("b", {}, fmt(point[1])));
    }).slice(0, 12));
    mark.replaceChildren();
    if (x === null) return;
    mark.append(svg("line", { class: "cross", x1: px(x), x2: px(x), y1: top, y2: height - bottom }));
    lines.forEach((line, i) => { const point = nearest(line, x); mark.append(svg("circle", { cx: px(point[0]), cy: py(point[1]), r: 3, fill: colour(i) })); });
  }
  function read(x, clientX, clientY) {
    place(x, true);
    tip.show(clientX, clientY, el("div", { class: "small" }, (options.xlabel || "DAPO step") + " " + fmt(x, 1)), rowsOf(lines.map((line, i) => {
      const point = nearest(line, x);
      return [visible(line.label), fmt(point[1], 4) + (point[2] !== undefined && point[2] !== null ? " (" + fmt(point[2]) + " to " + fmt(point[3]) + ")" : ""), colour(i), point[1]];
    }).sort((a, b) => (many ? b[3] - a[3] : 0)).slice(0, 14)));
  }
  function nearestX(clientX) {
    const x = x0 + (clientX - picture.getBoundingClientRect().left - left) / (width - left - right) * (x1 - x0);
    return xs.reduce((best, other) => (Math.abs(other - x) < Math.abs(best - x) ? other : best));
  }
  picture.addEventListener("pointermove", (event) => read(nearestX(event.clientX), event.clientX, event.clientY));
  for (const name of ["pointerleave", "blur"]) picture.addEventListener(name, () => { tip.hide(); place(options.follow ? state.step : null); });
  if (options.follow) {
    picture.addEventListener("click", (event) => change({ step: nearestX(event.clientX) || 1 }));
    onChange((part) => { if ("step" in part) place(state.step); });
  }
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by && event.key !== "Enter") return;
    event.preventDefault();
    if (event.key === "Enter") { if (options.follow && at) change({ step: at }); return; }
    const x = xs[Math.max(0, Math.min(xs.length - 1, (at === null ? (by > 0 ? -1 : xs.length) : xs.indexOf(xs.reduce((best, other) => (Math.abs(other - at) < Math.abs(best - at) ? other : best)))) + by))];
    const box = picture.getBoundingClientRect();
    read(x, box.left + px(x), box.top + 20);
  });
  new ResizeObserver(draw).observe(picture);
  return figure;
}

function pointsOf(name, scale = 1) {
  const values = data.metrics[name] || [], interval = data.metrics[name + "_ci95"] || [];
  return data.steps.flatMap((step, i) => (values[i] === null || values[i] === undefined ? [] : [interval[i] ? [step, values[i] * scale, values[i] - interval[i], values[i] + interval[i]] : [step, values[i] * scale]]));
}
function metricsLike(prefix) {
  const found = Object.keys(data.metrics).filter((name) => name === prefix || (prefix.endsWith("@") && name.startsWith(prefix) && !name.endsWith("_ci95")));
  return found.slice(-1);
}
function curves() {
  const charts = data.panels.map((panel) => {
    const lines = panel.lines.flatMap(([prefix, label]) => metricsLike(prefix).map((name) => ({ label: prefix.endsWith("@") ? label + "@" + name.split("@")[1] : label, points: pointsOf(name) }))).filter((line) => line.points.length);
    return lines.length && lines.some((line) => line.points.some((p) => p[1])) ? chart(lines, { title: panel.title, unit: panel.unit, follow: true }) : null;
  }).filter(Boolean);
  const names = Object.keys(data.metrics).filter((name) => !name.endsWith("_ci95")).sort();
  const other = el("div");
  const pick = (name) => other.replaceChildren(chart([{ label: name, points: pointsOf(name) }], { title: name, follow: true }));
  const chooser = choice("Any other metric", names.map((name) => [name, name]), "probability", pick);
  section("curves", "Curves", "Hover or use the arrow keys to read values; click to look at that step below. Bands are 95 % confidence intervals over held-out prompts.",
    el("div", { class: "charts" }, charts), el("div", { class: "bar-row", style: { "margin-top": "1rem" } }, chooser), el("div", { class: "charts" }, other));
  if (names.length) pick(names.includes("probability") ? "probability" : names[0]);
}
