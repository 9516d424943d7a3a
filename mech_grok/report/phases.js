"use strict";
// The phases of training in every time plot. Behind the curves of one cell they are shaded; several cells, and
// heat maps, have them as strips above the axes, and the rows of a figure that has a row for each cell in the rows.

const BEHIND = [0.05, 0.1, 0.19]; // opacities of memorisation, plateau and cleanup
const ROW = [0.1, 0.2, 0.36];
const STRIP = [0.28, 0.55, 1];
const STRIPS = { height: 3.5, gap: 1.5, all: 11, most: 8 }; // pixels; more cells than `most` have no strips

const phasesOf = (cell) => report.phases?.[cell]?.[averaging() ? "mean" : state.seed];

/** The cells that a panel shows and the deck does not hide, in the order of the page. */
function cellsShown(panel) {
  return panel.cells.filter((cell) => !state.hidden.has(cell));
}

function phaseShapes(panel) {
  if (!panel.training || !report.phases) return [];
  const cells = cellsShown(panel);
  if (panel.rows) return cells.flatMap((cell) => inRow(cell, panel.rows.indexOf(cell)));
  const pointed = cells.filter((cell) => state.pointed?.has(cell));
  const one = pointed.length === 1 ? pointed : cells.length === 1 ? cells : [];
  const behind = panel.maps ? [] : one.flatMap((cell) => across(cell, { yref: "paper", y0: 0, y1: 1 }, BEHIND));
  return [...behind, ...(behind.length && cells.length === 1 ? [] : strips(cells))];
}

function strips(cells) {
  if (cells.length > STRIPS.most) return [];
  const pitch = Math.min(STRIPS.height + STRIPS.gap, STRIPS.all / cells.length);
  const height = (pitch * STRIPS.height) / (STRIPS.height + STRIPS.gap);
  return cells.flatMap((cell, i) => {
    const low = 1 + pitch * (cells.length - 1 - i);
    return across(cell, { yref: "paper", ysizemode: "pixel", yanchor: 1, y0: low, y1: low + height }, STRIP);
  });
}

const inRow = (cell, row) => across(cell, { yref: "y", y0: row - 0.34, y1: row + 0.34 }, ROW);

/** A cell's phases as plotly's shapes over their steps, and a line from where its circuit forms. */
function across(cell, heights, opacities) {
  const phases = phasesOf(cell);
  if (!phases) return [];
  const colour = shade(report.cells[cell].colour);
  const shapes = phases.spans.map(([x0, x1], i) => ({
    type: "rect", layer: "below", xref: "x", x0, x1, ...heights, line: { width: 0 }, fillcolor: colour, opacity: opacities[i],
  }));
  if (phases.circuit === null) return shapes;
  const line = { color: colour, width: 1, dash: heights.ysizemode ? "solid" : "2px,2px" };
  return [...shapes, { type: "line", layer: "below", xref: "x", x0: phases.circuit, x1: phases.circuit, ...heights, line }];
}
