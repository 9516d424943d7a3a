"use strict";
// The page's numbers: arrays [seed, step, ...] decoded once, and what a trace shows of its array at the selected
// checkpoint and seeds. Uses `report`, `state` and `averaging` of page.js when it is called.

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
}

/** The numbers of an array [seed, step, ...], decoded once. */
function valuesOf(array) {
  if (typeof array.values === "string") array.values = new Float32Array(bytes(array.values));
  return array.values;
}

/** A trace's x or y as numbers: plotly's typed-array form or a plain list. */
function numbers(values) {
  if (!values || !values.bdata) return values ?? [];
  const kinds = { f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array };
  return new kinds[values.dtype](bytes(values.bdata));
}

const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

/** Index of the array's last checkpoint at or before the selected step (its first, if there is none). */
function stepIndex(array) {
  return Math.max(0, array.steps.findLastIndex((s) => s <= state.step));
}

/** Mean over the selected seeds of array[seed, step, ...at]: a flat list of the dimensions that are left. */
function block(array, step, at) {
  const values = valuesOf(array);
  const rest = array.shape.slice(2);
  const size = product(rest.slice(at.length));
  const offset = at.reduce((o, index, d) => o + index * product(rest.slice(d + 1)), 0);
  const chosen = array.seeds.map((_, i) => i).filter((i) => averaging() || array.seeds[i] === state.seed);
  const sum = new Float64Array(size);
  const count = new Uint32Array(size);
  for (const seed of chosen) {
    const start = (seed * array.shape[1] + step) * product(rest) + offset;
    for (let i = 0; i < size; i++) {
      const value = values[start + i];
      if (Number.isFinite(value)) { sum[i] += value; count[i]++; }
    }
  }
  return Array.from(sum, (s, i) => (count[i] ? s / count[i] : null));
}

/** sign(x) log10(1 + |x| / linear): as the colours of changes, linear near 0 and logarithmic beyond. */
const signedLog = (x, linear) => (x === null ? null : Math.sign(x) * Math.log10(1 + Math.abs(x) / linear));

/** What a trace shows of its array, as plotly's attributes. */
function shown(trace, choice) {
  const array = report.arrays[trace.meta.array];
  const { choices, history, linear_below: linear } = trace.meta;
  const at = choices ? choices[choice] : trace.meta.at;
  if (history) {
    const columns = array.steps.map((_, step) => block(array, step, at));
    return { z: columns[0].map((_, row) => columns.map((column) => column[row])) };
  }
  const flat = block(array, stepIndex(array), at);
  if (trace.type === "bar") return { y: flat };
  if (trace.type === "scatter") return { y: flat.map((x) => signedLog(x, linear)), customdata: flat };
  const width = array.shape.at(-1);
  return { z: Array.from({ length: flat.length / width }, (_, row) => flat.slice(row * width, (row + 1) * width)) };
}

/** Each seed's own trace is shown on demand; where seeds are points `apart`, there is no mean to show instead. */
