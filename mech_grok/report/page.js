"use strict";
// Draws the page's panels and keeps them in step with the deck: checkpoint, seed and cells shown.
// A panel is drawn or brought up to date by `refresh`, the nearest to the reader first.

const report = JSON.parse(document.getElementById("report-data").textContent);
// `seed` is a seed, "mean", or "each": the mean, and every seed's own line beside it.
const state = { step: report.steps.at(-1), seed: null, hidden: new Set() };
const averaging = () => typeof state.seed === "string";
const grouped = (n) => n.toLocaleString("en-GB");

const panels = [...document.querySelectorAll(".plot")].map((div) => {
  const { data, layout } = report.panels[div.id];
  return {
    div,
    box: div.closest(".panel"),
    data: data.map((t) => (t.type === "heatmap" ? { ...t, showscale: false } : t)),
    layout: { ...layout, showlegend: false, autosize: true },
    choice: 0, // which part of its arrays it shows, where its figure has buttons for that
    looks: report.looks[div.closest("figure").dataset.slug],
    lines: data.some((t) => t.type === "scatter"),
    training: div.dataset.shows === "training" && layout.xaxis.title.text === "step",
    range: layout.yaxis.range?.slice(),
    weights: data.map((t) => ({ opacity: t.opacity ?? 1, width: t.line?.width ?? null })), // plotly edits `data`
    arrays: [...new Set(data.map((t) => t.meta.array).filter(Boolean))].map((key) => report.arrays[key]),
  };
});

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
      { data: div.data.map((t) => (t.colorbar ? { ...t, showscale: true } : t)), layout: { ...div.layout, showlegend: true, paper_bgcolor: "#fff", shapes: div.layout.shapes?.slice(0, -1) } },
      { format: "png", scale: 2, width: div.offsetWidth, height: div.offsetHeight, filename: div.id },
    ),
  }],
};

function cursor() {
  return { type: "line", xref: "x", yref: "paper", x0: state.step, x1: state.step, y0: 0, y1: 1, line: { color: "#22272e", width: 1 }, opacity: 0.45 };
}

function draw(panel) {
  if (panel.training && report.steps.length) panel.layout.shapes = [...(panel.layout.shapes ?? []), cursor()];
  Plotly.newPlot(panel.div, panel.data, panel.layout, config);
  if (panel.training && report.steps.length) panel.div.on("plotly_click", (event) => select(nearest(event.points[0].x)));
  panel.drawn = { step: state.step, lines: "", table: "" };
}

/** Bring a panel to the current state, changing only what differs from what it shows. */
function update(panel) {
  if (!panel.drawn) draw(panel);
  const lines = [state.seed, ...state.hidden].join();
  if (panel.lines && panel.drawn.lines !== lines) {
    Plotly.restyle(panel.div, looks(panel));
  }
  const table = `${state.seed} ${panel.choice} ${panel.training ? "" : state.step}`;
  if (panel.arrays.length && panel.drawn.table !== table) redraw(panel);
  if (panel.training && panel.drawn.step !== state.step) {
    const last = `shapes[${panel.layout.shapes.length - 1}]`;
    Plotly.relayout(panel.div, { [`${last}.x0`]: state.step, [`${last}.x1`]: state.step });
  }
  panel.drawn = { step: state.step, lines, table };
}

function redraw(panel) {
  const changes = panel.data.map((t) => shown(t, panel.choice));
  const of = (key) => changes.map((change) => change[key]);
  const look = Object.entries(panel.looks?.[panel.choice] ?? {}).map(([key, value]) => [key, [value]]);
  const values = Object.keys(changes[0]).map((key) => [key, of(key)]);
  Plotly.restyle(panel.div, Object.fromEntries([...look, ...values]));
  const at = panel.box.querySelector(".at");
  if (at) at.textContent = panel.training ? panel.data[0].meta.names[panel.choice] : stepsShown(panel.arrays);
}

/** The checkpoints that a panel shows: more than one where its cells have none in common. */
function stepsShown(arrays) {
  const steps = [...new Set(arrays.map((array) => array.steps[stepIndex(array)]))];
  return `step ${steps.map(grouped).join(" / ")}`;
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

// ---- the deck ---------------------------------------------------------------------------------------

const slider = document.getElementById("step");
const play = document.getElementById("play");
const seed = document.getElementById("seed");

function nearest(step) {
  const steps = report.steps;
  return steps.reduce((best, s, i) => (Math.abs(s - step) < Math.abs(steps[best] - step) ? i : best), 0);
}

function select(index) {
  slider.value = index;
  state.step = report.steps[index];
  slider.setAttribute("aria-valuetext", `step ${grouped(state.step)}`);
  document.getElementById("step-out").textContent = `step ${grouped(state.step)}`;
  refresh();
}

let timer = null;

function stop() {
  clearInterval(timer);
  timer = null;
  play.classList.remove("playing");
  play.setAttribute("aria-label", "Play through the checkpoints");
}

function start() {
  const last = report.steps.length - 1;
  const stride = Math.max(1, Math.round(report.steps.length / 150));
  if (Number(slider.value) === last) select(0);
  play.classList.add("playing");
  play.setAttribute("aria-label", "Pause");
  timer = setInterval(() => {
    select(Math.min(last, Number(slider.value) + stride));
    if (Number(slider.value) === last) stop();
  }, 120);
}

function toggle(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", on);
  return on;
}

function chooseSeed() {
  state.seed = ["mean", "each"].includes(seed.value) ? seed.value : Number(seed.value);
  refresh();
}

function toggleCell(chip) {
  const on = toggle(chip);
  for (const cell of chip.dataset.cell.split(" ").map(Number)) {
    if (on) state.hidden.delete(cell);
    else state.hidden.add(cell);
  }
  document.querySelectorAll(".panel[data-cell]").forEach((box) => { box.hidden = state.hidden.has(Number(box.dataset.cell)); });
  panels.filter((p) => p.drawn && !p.box.hidden).forEach((p) => Plotly.Plots.resize(p.div));
  refresh();
}

/** `log` and `linear` leave panels with a fixed range alone; `common` is that range, `own` follows the data. */
function setScale(figure, button) {
  figure.querySelectorAll("[data-scale]").forEach((b) => b.setAttribute("aria-pressed", b === button));
  const scale = button.dataset.scale;
  panels.filter((p) => figure.contains(p.div)).forEach((p) => {
    if (scale === "own") Plotly.relayout(p.div, { "yaxis.autorange": true });
    else if (scale === "common") Plotly.relayout(p.div, { "yaxis.range": [...p.range] });
    else if (!p.range) Plotly.relayout(p.div, { "yaxis.type": scale, "yaxis.autorange": true });
  });
}

/** A figure's own buttons: which quantity, or which intervention, all of its panels show. */
function choose(figure, button) {
  figure.querySelectorAll("[data-choice]").forEach((b) => b.setAttribute("aria-pressed", b === button));
  figure.querySelectorAll("[data-of]").forEach((key) => { key.hidden = key.dataset.of !== button.dataset.choice; });
  panels.filter((p) => figure.contains(p.div)).forEach((p) => { p.choice = Number(button.dataset.choice); });
  refresh();
}

// ---- start --------------------------------------------------------------------------------------------

document.addEventListener("DOMContentLoaded", () => {
  slider.addEventListener("input", () => { stop(); select(Number(slider.value)); });
  play.addEventListener("click", () => (timer ? stop() : start()));
  seed.addEventListener("change", chooseSeed);
  document.querySelectorAll(".chip").forEach((chip) => chip.addEventListener("click", () => toggleCell(chip)));
  document.querySelectorAll("figure").forEach((figure) => {
    figure.querySelectorAll("[data-scale]").forEach((b) => b.addEventListener("click", () => setScale(figure, b)));
    figure.querySelectorAll("[data-choice]").forEach((b) => b.addEventListener("click", () => choose(figure, b)));
    figure.querySelector(".csv").addEventListener("click", () => download(figure));
  });
  if (report.steps.length) {
    document.querySelector(".time").hidden = false;
    slider.max = report.steps.length - 1;
    select(report.steps.length - 1);
  }
  chooseSeed();
});
