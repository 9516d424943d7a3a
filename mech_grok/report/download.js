"use strict";
// The numbers behind a figure as CSV, one value a row: of every seed, and of every checkpoint.

const plain = (html) => html.replace(/<[^>]*>/g, "");
const field = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);

function* curveRows(panel) {
  const quantity = panel.box.querySelector(".panel-title")?.textContent ?? plain(panel.layout.yaxis.title.text);
  for (const trace of panel.data.filter((t) => typeof t.meta.seed === "number")) {
    const [x, y] = [numbers(trace.x), numbers(trace.y)];
    const { cell, split, seed, reference } = trace.meta;
    for (let i = 0; i < x.length; i++) {
      yield [quantity, report.cells[cell].name, split + (reference ? " (dotted)" : ""), seed, x[i], y[i]];
    }
  }
}

function* milestoneRows(panel) {
  for (const { meta, x, customdata } of panel.data) {
    for (let i = 0; i < x.length; i++) yield [meta.milestone, report.cells[meta.cell].name, "", customdata[i], x[i], x[i]];
  }
}

function* arrayRows(array, key) {
  const values = valuesOf(array);
  const axes = [array.seeds, array.steps, ...array.coords];
  for (let i = 0; i < values.length; i++) {
    let left = i;
    const at = axes.map(() => null);
    for (let d = axes.length - 1; d >= 0; d--) {
      at[d] = axes[d][left % array.shape[d]];
      left = Math.floor(left / array.shape[d]);
    }
    yield [key, report.cells[array.cell].name, ...at, values[i]];
  }
}

function csv(figure) {
  const own = panels.filter((p) => figure.contains(p.div));
  const arrays = [...new Set(own.flatMap((p) => p.arrays))];
  const rows = arrays.length
    ? [["quantity", "cell", "seed", "step", ...arrays[0].dims, "value"]]
    : [["quantity", "cell", "split", "seed", "step", "value"]];
  for (const array of arrays) {
    const key = Object.keys(report.arrays).find((k) => report.arrays[k] === array).split(":")[0];
    for (const row of arrayRows(array, key)) rows.push(row);
  }
  for (const panel of arrays.length ? [] : own) {
    for (const row of figure.dataset.slug === "milestones" ? milestoneRows(panel) : curveRows(panel)) rows.push(row);
  }
  return rows.map((row) => row.map(field).join(",")).join("\n") + "\n";
}

function download(figure) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(figure)], { type: "text/csv" }));
  link.download = `${figure.dataset.slug}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
