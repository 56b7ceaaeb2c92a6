// Elements, numbers, the tip that follows the pointer, and the state that the parts of the page share.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Characters that reorder or hide text are named, so that a completion cannot look like something else.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const visible = (text) => String(text).replace(HIDDEN, (c) => "⟨U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");

function fmt(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10000) return Math.round(value).toLocaleString("en");
  if (Number.isInteger(value)) return String(value);
  if (size < 0.001) return value.toExponential(1).replace("-", "−").replace("e−", "e−");
  return (size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(digits)).replace("-", "−");
}
const signed = (value) => (value > 0 ? "+" : "") + fmt(value, 2);
const percent = (value) => (100 * value).toFixed(value > 0.0995 || value === 0 ? 0 : 1) + " %";

const tip = {
  show(x, y, ...children) {
    const box = $("tip");
    box.replaceChildren(...children);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = Math.max(6, Math.min(x + 14, innerWidth - width - 6)) + "px";
    box.style.top = (y + 18 + height > innerHeight ? Math.max(6, y - height - 12) : y + 18) + "px";
  },
  hide() { $("tip").hidden = true; },
};
const rowsOf = (pairs) => el("table", {}, pairs.map(([name, value, colour]) =>
  el("tr", {}, el("td", { style: colour ? { color: colour } : {} }, name), el("td", {}, value))));
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hide(); });
addEventListener("scroll", () => tip.hide(), { passive: true });

const state = { step: null, group: null, colour: "probability", listeners: [] };
function change(part) {
  Object.assign(state, part);
  for (const listener of state.listeners) listener(part);
}
const onChange = (listener) => state.listeners.push(listener);

function section(id, title, about, ...children) {
  const node = el("section", { id, "aria-labelledby": id + "-title" }, el("h2", { id: id + "-title" }, title), about ? el("p", { class: "sub" }, about) : null, ...children);
  $("main").append(node);
  return node;
}
function choice(label, options, value, onpick) {
  const select = el("select", { onchange: () => onpick(select.value) }, options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  return el("label", {}, label, select);
}
