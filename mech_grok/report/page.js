"use strict";
// Ties the page's controls to what they do, once everything is there.

document.addEventListener("DOMContentLoaded", () => {
  slider.addEventListener("input", () => { stop(); select(Number(slider.value)); });
  play.addEventListener("click", () => (timer ? stop() : start()));
  seed.addEventListener("change", chooseSeed);
  document.querySelectorAll(".chip").forEach((chip) => {
    chip.addEventListener("click", () => toggleCell(chip));
    if (!report.phases) return;
    for (const name of ["pointerenter", "focus"]) chip.addEventListener(name, () => pointAtCell(chip));
    for (const name of ["pointerleave", "blur"]) chip.addEventListener(name, () => pointAtCell(null));
  });
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
  document.addEventListener("theme", refresh);
});
