// Held-out results, the configuration, warnings; and the page of a sweep.
function heldOut() {
  const steps = Object.keys(data.held_out || {});
  if (!steps.length) return;
  const names = [...new Set(steps.flatMap((step) => Object.keys(data.held_out[step])))].filter((name) => !name.endsWith("_ci95"));
  const setOf = (name) => data.sets.find((one) => name.startsWith(one + "/")) || "";
  const cell = (step, name) => { const value = data.held_out[step][name], ci = data.held_out[step][name + "_ci95"]; return el("td", { class: "n" }, fmt(value), ci === undefined ? null : el("span", { class: "small" }, " ± " + fmt(ci))); };
  const tableOf = (of) => el("div", { class: "scroll" }, el("table", { class: "data" }, el("thead", {}, el("tr", {}, el("th", {}, of || "metric"), steps.map((step) => el("th", { class: "n" }, "step " + step)))), el("tbody", {}, names.filter((name) => setOf(name) === of).map((name) => el("tr", {}, el("td", { class: "k" }, of ? name.slice(of.length + 1) : name), steps.map((step) => cell(step, name)))))));
  section("held-out", "Held-out prompts", "± is half the 95 % confidence interval over prompts.", ["", ...data.sets].map((of) => [of ? el("h3", { style: { margin: "1.2rem 0 .3rem" } }, "The set " + of) : null, tableOf(of)]).flat());
}
function settingsTable() {
  const body = el("tbody"), box = el("input", { type: "checkbox", checked: true, onchange: draw }), search = el("input", { type: "search", placeholder: "name or value", oninput: draw });
  function draw() {
    const wanted = search.value.toLowerCase();
    const rows = data.settings.filter((row) => (!box.checked || row.differs) && (row.name + " " + row.value).toLowerCase().includes(wanted));
    body.replaceChildren(...rows.map((row) => el("tr", { class: row.differs ? "differs" : null }, el("td", { class: "k" }, visible(row.name)), el("td", { class: "k" }, visible(row.value)), el("td", { class: "k" }, row.differs ? visible(row.default) : ""))));
    if (!rows.length) body.append(el("tr", {}, el("td", { colspan: 3 }, box.checked ? "Everything has its default." : "Nothing matches.")));
  }
  section("settings", "Configuration", null, el("div", { class: "filters" }, el("label", {}, "Search", search), el("label", { style: { display: "flex", gap: ".4rem", "align-items": "center" } }, box, "only what differs from the default")),
    el("div", { class: "scroll" }, el("table", { class: "data" }, el("thead", {}, el("tr", {}, ["setting", "this run", "default"].map((name) => el("th", {}, name)))), body)));
  draw();
}
const styleOf = (i) => ({ colour: COLOURS[i % 6], dash: ["", "5 3", "2 3"][Math.floor(i / 6) % 3] });
const notes = (texts) => texts.map((text) => el("div", { class: "note" }, visible(text)));
function warnings() {
  if (!data.warnings.length) return;
  section("warnings", data.warnings.length === 1 ? "One warning" : data.warnings.length + " warnings", null, notes(data.warnings.slice(0, 3)), data.warnings.length > 3 ? el("details", {}, el("summary", {}, `${data.warnings.length - 3} more`), notes(data.warnings.slice(3))) : null);
}
function sweepTables() {
  const hidden = new Set(), box = el("div", { class: "charts" });
  let figure = data.figures[0];
  function draw() {
    if (figure) box.replaceChildren(...figure.charts.map((one) => chart(one.lines.filter((line) => !hidden.has(line.label)).map((line) => ({ ...line, ...styleOf(figure.names.indexOf(line.label)) })), { title: one.title, unit: "by " + one.xlabel, xlabel: one.xlabel, height: 230 })));
  }
  const names = el("div", { class: "filters" });
  function pick(i) {
    figure = data.figures[i];
    hidden.clear();
    names.replaceChildren(...(figure ? figure.names : []).map((name) => { const tick = el("input", { type: "checkbox", checked: true, onchange: () => { if (tick.checked) hidden.delete(name); else hidden.add(name); draw(); } }); return el("label", { style: { display: "flex", gap: ".35rem", "align-items": "center" } }, tick, visible(name)); }));
    draw();
  }
  if (data.figures.length) section("curves", "Figures", "Means over seeds at equal numbers of steps. Bands are 95 % confidence intervals over seeds (of two seeds, their range).", el("div", { class: "filters" }, choice("Figure", data.figures.map((one, i) => [String(i), one.title]), "0", pick)), names, box, data.figure_notes.length ? el("details", {}, el("summary", {}, "What the figures leave out"), notes(data.figure_notes)) : null);
  pick(0);
  section("results", "Results", "± is half the 95 % confidence interval over seeds. Only finished runs count.", data.tables.map((table) => el("div", { style: { "margin-bottom": "1.4rem" } }, el("h3", {}, table.title), el("div", { class: "scroll" }, el("table", { class: "data" }, el("thead", {}, el("tr", {}, table.columns.map((name, i) => el("th", { class: i ? "n" : null }, name)))), el("tbody", {}, table.rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", { class: i ? "n" : "k" }, visible(cell)))))))))));
  runsBeside();
}
function runsBeside() {
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.metrics)))].filter((name) => !name.endsWith("_ci95")).sort();
  const chosen = new Set(data.runs.slice(0, 8).map((run) => run.name)), box = el("div");
  let metric = names.find((name) => name.startsWith("validation/avg@")) || names[0];
  function draw() {
    const lines = data.runs.map((run, i) => ({ run, ...styleOf(i) })).filter(({ run }) => chosen.has(run.name) && run.metrics[metric]).map(({ run, colour, dash }) => ({ label: run.name, colour, dash, points: run.steps.flatMap((step, i) => (run.metrics[metric][i] === null ? [] : [[step, run.metrics[metric][i]]])) }));
    box.replaceChildren(lines.length ? chart(lines, { title: metric, height: 260 }) : el("p", { class: "small" }, "None of the chosen runs has measured this."));
  }
  const accuracies = [...new Set(data.runs.flatMap((run) => Object.keys(run.accuracies)))];
  const differing = [...new Set(data.runs.flatMap((run) => Object.keys(run.differs)))];
  const row = (run) => { const tick = el("input", { type: "checkbox", "aria-label": "show " + run.name, checked: chosen.has(run.name), onchange: () => { if (tick.checked) chosen.add(run.name); else chosen.delete(run.name); draw(); } }); return el("tr", {}, el("td", {}, tick), el("td", { class: "k" }, run.page ? el("a", { href: run.page, style: { color: "var(--accent)" } }, visible(run.name)) : visible(run.name)), el("td", {}, run.state), accuracies.map((name) => el("td", { class: "n" }, fmt(run.accuracies[name]))), differing.map((name) => el("td", { class: "k" }, visible(run.differs[name] ?? "–")))); };
  section("runs", "Runs side by side", "Tick runs to draw them. The columns on the right show the settings that differ.", el("div", { class: "filters" }, choice("Metric", names.map((name) => [name, name]), metric, (name) => { metric = name; draw(); })), box,
    el("div", { class: "scroll whole", style: { "max-height": "34rem", "overflow-y": "auto", "margin-top": "1rem" } }, el("table", { class: "data" }, el("thead", {}, el("tr", {}, ["", "run", "state", ...accuracies, ...differing].map((name, i) => el("th", { class: i > 2 && i < 3 + accuracies.length ? "n" : null }, visible(name))))), el("tbody", {}, data.runs.map(row)))));
  draw();
}
