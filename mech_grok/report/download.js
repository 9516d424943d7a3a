"use strict";
// The numbers behind a figure as CSV, one value a row: of every seed and checkpoint, but of large maps.

const plain = (html) => html.replace(/<[^>]*>/g, "");
const field = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);

function* curveRows(panel) {
  const title = panel.box.querySelector(".panel-title")?.textContent ?? plain(panel.layout.yaxis.title.text);
  for (const trace of panel.data.filter(({ meta }) => typeof meta.seed === "number" || meta.seed === "published")) {
    const [x, y] = [numbers(trace.x), numbers(trace.y)];
    const { cell, split, seed, reference, against, quantity = title } = trace.meta;
    const row = (name, who, step, value) =>
      [name, report.cells[cell].name, split + (reference ? " (dotted)" : ""), who, step, value];
    for (let i = 0; i < x.length; i++) {
      if (against) { // two quantities, at the steps in customdata
        yield row(against[0], seed, trace.customdata[i], x[i]);
        yield row(against[1], seed, trace.customdata[i], y[i]);
        if (trace.error_x) { // each happened after its low step, and by the one above
          yield row(against[0], `${seed} low`, trace.customdata[i], x[i] - numbers(trace.error_x.arrayminus)[i]);
          yield row(against[1], `${seed} low`, trace.customdata[i], y[i] - numbers(trace.error_y.arrayminus)[i]);
        }
        continue;
      }
      yield row(quantity, seed, x[i], y[i]);
      if (trace.error_y) {
        yield row(quantity, `${seed} low`, x[i], trace.customdata[i][0]);
        yield row(quantity, `${seed} high`, x[i], trace.customdata[i][1]);
      }
    }
  }
}

function* milestoneRows(panel) {
  for (const { meta, mode, x, customdata } of panel.data) {
    const step = (i) => (mode === "text" ? "" : x[i]); // words on what did not happen
    for (const [i, who] of customdata.entries()) yield [meta.milestone, report.cells[meta.cell].name, "", who, step(i), step(i)];
  }
}

/** Of an array of bytes, the numbers of the seed and checkpoint shown, and by how much they may be rounded. */
function* arrayRows(array, key, dims) {
  const values = valuesOf(array);
  const [start, end] = array.low ? whole(array) : [0, values.length];
  const axes = [array.seeds, array.steps, ...array.coords];
  const column = ["seed", "step", ...array.dims];
  for (let i = start; i < end; i++) {
    let left = i;
    const at = {};
    for (let d = axes.length - 1; d >= 0; d--) {
      at[column[d]] = axes[d][left % array.shape[d]];
      left = Math.floor(left / array.shape[d]);
    }
    const rounding = array.low ? [ranges(array).step[Math.floor(i / product(array.shape.slice(-2)))] / 2] : [];
    yield [key, report.cells[array.cell].name, at.seed, at.step, ...dims.map((dim) => at[dim] ?? ""), values[i], ...rounding];
  }
}

/** From where to where the values of the seed and checkpoint shown are. */
function whole(array) {
  const size = product(array.shape.slice(2));
  const start = (seedIndices(array)[0] * array.shape[1] + stepIndex(array)) * size;
  return [start, start + size];
}

const asCsv = (rows) => rows.map((row) => row.map(field).join(",")).join("\n") + "\n";

function csv(figure) {
  const own = panels.filter((p) => figure.contains(p.div));
  const arrays = [...new Set(own.flatMap((p) => p.arrays))];
  const dims = [...new Set(arrays.flatMap((array) => array.dims))];
  const rounded = arrays.some((array) => array.low) ? ["plus or minus"] : [];
  const rows = arrays.length
    ? [["quantity", "cell", "seed", "step", ...dims, "value", ...rounded]]
    : [["quantity", "cell", "split", "seed", "step", "value"]];
  for (const array of arrays) {
    const key = Object.keys(report.arrays).find((k) => report.arrays[k] === array).split(":")[0];
    for (const row of arrayRows(array, key, dims)) rows.push(row);
  }
  for (const panel of arrays.length ? [] : own) {
    for (const row of figure.dataset.slug === "milestones" ? milestoneRows(panel) : curveRows(panel)) rows.push(row);
  }
  return asCsv(rows);
}

function download(figure) {
  save(`${figure.dataset.slug}.csv`, csv(figure));
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
