"use strict";
// The phases of training in every time plot. Behind the curves of one cell they are shaded; several cells, and
// heat maps, have them as strips above the axes, and the rows of a figure that has a row for each cell in the rows.

// How opaque and how high they are is in `report.shading`; `phase_shapes.py` draws the same in a figure alone.

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
  const behind = panel.maps ? [] : one.flatMap((cell) => across(cell, { yref: "paper", y0: 0, y1: 1 }, report.shading.behind));
  return [...behind, ...(behind.length && cells.length === 1 ? [] : strips(cells))];
}

function strips(cells) {
  const { strip, strip_height, strip_gap, strips_height, most_strips } = report.shading;
  if (cells.length > most_strips) return [];
  const whole = strip_height + strip_gap;
  const pitch = Math.min(whole, strips_height / cells.length);
  const height = (pitch * strip_height) / whole;
  return cells.flatMap((cell, i) => {
    const low = 1 + pitch * (cells.length - 1 - i);
    return across(cell, { yref: "paper", ysizemode: "pixel", yanchor: 1, y0: low, y1: low + height }, strip);
  });
}

function inRow(cell, at) {
  const { row, half_row } = report.shading;
  return across(cell, { yref: "y", y0: at - half_row, y1: at + half_row }, row);
}

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
