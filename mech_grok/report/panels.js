"use strict";
// Draws the page's panels and keeps them in step with the deck: checkpoint, seed and cells shown, and colours.
// A panel is drawn or brought up to date by `refresh`, the nearest to the reader first.

const report = JSON.parse(document.getElementById("report-data").textContent);
// `seed` is a seed, "mean", or "each": the mean, and every seed's own line beside it.
// `pointed` has the cells whose button is pointed at.
const state = { step: report.steps.at(-1), seed: null, hidden: new Set(), pointed: null };
const averaging = () => typeof state.seed === "string";
const grouped = (n) => n.toLocaleString("en-GB");

const panels = [...document.querySelectorAll(".plot")].map((div) => {
  const { data, layout } = restored(report.panels[div.id]);
  const drawn = {
    data: data.map((t) => (t.type === "heatmap" ? { ...t, showscale: false } : t)),
    layout: { ...layout, showlegend: false, autosize: true },
  };
  return {
    div,
    box: div.closest(".panel"),
    ...drawn,
    colours: [...colourSites(drawn)],
    shapes: layout.shapes ?? [], // its own, before those of phases
    cells: cellsOf(data, layout),
    rows: layout.meta?.rows, // the cells of its rows, where it has a row for each cell
    choice: 0, // which part of its arrays it shows, where its figure has buttons for that
    looks: restored(report.looks[div.closest("figure").dataset.slug]),
    lines: data.some((t) => t.type === "scatter"),
    maps: data.some((t) => t.type === "heatmap"),
    training: div.dataset.shows === "training" && layout.xaxis.title.text === "step",
    range: layout.yaxis.range?.slice(),
    weights: data.map((t) => ({ opacity: t.opacity ?? 1, width: t.line?.width ?? null })), // plotly edits `data`
    arrays: [...new Set(data.map((t) => t.meta.array).filter(Boolean))].map((key) => report.arrays[key]),
  };
});

/** The cells that a panel shows, in the order of the page. */
function cellsOf(data, layout) {
  const own = data.map(({ meta }) => (meta.array ? report.arrays[meta.array].cell : meta.cell));
  return [...new Set([...own, ...(layout.meta?.rows ?? [])])].filter((cell) => cell !== undefined).sort((a, b) => a - b);
}

function visible({ array, cell, seed, apart }) {
  if (state.hidden.has(cell)) return false;
  if (array) return true;
  if (typeof seed === "number") return seed === state.seed || (apart ? averaging() : state.seed === "each");
  return seed !== "mean" || averaging();
}

/** What the deck decides of every line: whether it is there, and its weight; a selected seed stands out. */
function looks(panel) {
  const selected = (t) => !averaging() && t.meta.seed === state.seed;
  return {
    visible: panel.data.map((t) => visible(t.meta)),
    opacity: panel.data.map((t, i) => (selected(t) ? 1 : panel.weights[i].opacity)),
    "line.width": panel.data.map((t, i) => (selected(t) ? 2 : panel.weights[i].width)),
  };
}

// ---- drawing ----------------------------------------------------------------------------------------

const config = {
  ...report.config,
  modeBarButtonsToAdd: [{
    name: "png",
    title: "Download as PNG",
    icon: { width: 24, height: 24, path: "M11 3h2v9l3.5-3.5 1.4 1.4L12 15.8 6.1 9.9l1.4-1.4L11 12zM4 18h16v2H4z" },
    click: (div) => Plotly.downloadImage(
      onWhite(div),
      { format: "png", scale: 2, width: div.offsetWidth, height: div.offsetHeight, filename: div.id },
    ),
  }],
};

/** A panel as an image shows it: in its light colours, with the key to its colours. */
function onWhite(div) {
  const panel = panels.find((p) => p.div === div);
  const on = panel.painted;
  theme.onWhite = true;
  paint(panel);
  const shapes = [...panel.shapes, ...phaseShapes(panel)];
  const image = structuredClone({ data: div.data, layout: { ...div.layout, shapes, showlegend: true, paper_bgcolor: "#fff" } });
  theme.onWhite = false;
  if (on) paint(panel);
  for (const trace of image.data) if (trace.colorbar) trace.showscale = true;
  return image;
}

/** What of the deck decides a panel's lines and phases. */
const linesShown = () => [state.seed, ...state.hidden].join();
const phasesShown = () => [linesShown(), ...(state.pointed ?? [])].join("/");

function draw(panel) {
  paint(panel);
  panel.layout.shapes = [...panel.shapes, ...phaseShapes(panel)];
  Plotly.newPlot(panel.div, panel.data, panel.layout, config);
  describe(panel);
  if (panel.training) addCursors(panel);
  if (panel.training && report.steps.length) panel.div.on("plotly_click", (event) => select(nearest(event.points[0].x)));
  panel.drawn = { lines: "", table: "", phases: phasesShown() };
}

/** One image with a name, in place of an SVG element's every label. */
function describe(panel) {
  const [image, ...others] = panel.div.querySelectorAll(".main-svg");
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", panel.div.dataset.name);
  others.forEach((svg) => svg.setAttribute("aria-hidden", "true"));
}

/** Bring a panel to the current state, changing only what differs from what it shows. */
function update(panel) {
  if (!panel.drawn) draw(panel);
  if (panel.painted !== onDark()) repaint(panel);
  const [lines, phases] = [linesShown(), panel.training ? phasesShown() : ""];
  if (panel.lines && panel.drawn.lines !== lines) Plotly.restyle(panel.div, looks(panel));
  if (panel.training && panel.drawn.phases !== phases) Plotly.relayout(panel.div, { shapes: [...panel.shapes, ...phaseShapes(panel)] });
  const table = `${state.seed} ${panel.choice} ${panel.training || !panel.arrays.length ? "" : whatIsShown(panel)}`;
  if (panel.arrays.length && panel.drawn.table !== table) redraw(panel);
  if (panel.training) placeCursors(panel);
  panel.drawn = { lines, table, phases };
}

function repaint(panel) {
  paint(panel);
  panel.div.layout.shapes = [...panel.shapes, ...phaseShapes(panel)];
  Plotly.redraw(panel.div);
  panel.drawn.table = ""; // the colours of what was chosen
}

function redraw(panel) {
  const changes = panel.data.map((t) => shown(t, panel.choice));
  const of = (key) => changes.map((change) => change[key]); // undefined leaves a trace's own as it is
  const look = Object.entries(painted(panel.looks?.[panel.choice] ?? {})).map(([key, value]) => [key, [value]]);
  const keys = new Set(changes.flatMap((change) => Object.keys(change)));
  const values = [...keys].map((key) => [key, of(key)]);
  Plotly.restyle(panel.div, Object.fromEntries([...look, ...values]));
  const at = panel.box.querySelector(".at");
  if (at) at.textContent = panel.training ? panel.data[0].meta.names[panel.choice] : whatIsShown(panel);
}

const waiting = new Set();

function refresh() {
  if (!waiting.size) requestAnimationFrame(drain);
  panels.filter((p) => !p.box.hidden).forEach((p) => waiting.add(p));
}

/** Work off the waiting panels, nearest to the middle of the window first, some 20 ms a frame. */
function drain(frame) {
  const distance = (p) => Math.abs(p.div.getBoundingClientRect().top + p.div.offsetHeight / 2 - innerHeight / 2);
  const order = [...waiting].map((p) => [distance(p), p]).sort((a, b) => a[0] - b[0]);
  for (const [, panel] of order) {
    waiting.delete(panel);
    if (!panel.box.hidden) update(panel);
    if (performance.now() - frame > 20) break;
  }
  if (waiting.size) requestAnimationFrame(drain);
}
