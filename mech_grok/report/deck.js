"use strict";
// The deck, and the buttons of single figures: what is chosen goes to `state`, and `refresh` shows it.

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

const cellsOfChip = (chip) => chip.dataset.cell.split(" ").map(Number);

/** While a cell's button is pointed at or has the focus, its phases are shaded in every time plot. */
function pointAtCell(chip) {
  state.pointed = chip && new Set(cellsOfChip(chip));
  refresh();
}

function toggleCell(chip) {
  const on = toggle(chip);
  for (const cell of cellsOfChip(chip)) {
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
