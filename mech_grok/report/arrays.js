"use strict";
// The page's numbers: arrays [seed, step, ...] unpacked once, and what a trace shows of its array at the selected
// checkpoint and seeds. Uses `report`, `state`, `averaging` and `grouped` of panels.js when it is called.

function bytes(base64) {
  const text = atob(base64);
  const codes = new Uint8Array(text.length);
  for (let i = 0; i < codes.length; i++) codes[i] = text.charCodeAt(i); // several times as fast as Uint8Array.from
  return codes;
}

const floats = (base64) => new Float32Array(bytes(base64).buffer);
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

/** The numbers of an array [seed, step, ...], unpacked once. */
function valuesOf(array) {
  if (typeof array.values === "string") {
    const raw = inflate(bytes(array.values), product(array.shape) * (array.low ? 1 : 4));
    array.values = array.low ? widened(array, summed(raw)) : new Float32Array(raw.buffer);
  }
  return array.values;
}

/** Codes from the differences between neighbours, modulo 256. */
function summed(codes) {
  for (let i = 1; i < codes.length; i++) codes[i] += codes[i - 1];
  return codes;
}

/** A copy of figures as JSON in which the parts that the page stores once are in their places again. */
function restored(value) {
  if (value === null || typeof value !== "object") return value;
  if (Object.hasOwn(value, "shared")) return structuredClone(report.shared[value.shared]);
  if (Array.isArray(value)) return value.map(restored);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, restored(inner)]));
}

const STEPS = 254, MISSING = 255; // as in byte_arrays.py

/** The numbers of an array of bytes: each map, its last two dimensions, has a range of its own. */
function widened(array, codes) {
  const { low, step } = ranges(array);
  const size = product(array.shape.slice(-2));
  const values = new Float32Array(codes.length);
  for (let map = 0, i = 0; map < low.length; map++) {
    for (const end = i + size; i < end; i++) values[i] = codes[i] === MISSING ? NaN : low[map] + codes[i] * step[map];
  }
  return values;
}

/** The lower end of every map, and how far apart two neighbouring values are. */
function ranges(array) {
  if (!array.ranges) {
    const [low, high] = [floats(array.low), floats(array.high)];
    array.ranges = { low, step: low.map((l, i) => (high[i] - l) / STEPS) };
  }
  return array.ranges;
}

/** A trace's x or y as numbers: plotly's typed-array form or a plain list. */
function numbers(values) {
  if (!values || !values.bdata) return values ?? [];
  const kinds = { f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, u1: Uint8Array, u2: Uint16Array };
  return new kinds[values.dtype](bytes(values.bdata).buffer);
}

// ---- which checkpoint, which seeds ----------------------------------------------------------------------

/** Index of the array's last checkpoint at or before the selected step (its first, if there is none). */
function stepIndex(array) {
  return array.snaps ? nearestIndex(array.steps) : Math.max(0, array.steps.findLastIndex((s) => s <= state.step));
}

function nearestIndex(steps) {
  return steps.reduce((best, s, i) => (Math.abs(s - state.step) < Math.abs(steps[best] - state.step) ? i : best), 0);
}

/** Indices of the array's seeds that are averaged over; of one that snaps, the selected seed or its first. */
function seedIndices(array) {
  if (array.snaps) return [Math.max(0, array.seeds.indexOf(state.seed))];
  return array.seeds.map((_, i) => i).filter((i) => averaging() || array.seeds[i] === state.seed);
}

/** What a panel shows, in words: the steps, more than one where its cells have none in common, and the seed. */
function whatIsShown(panel) {
  const arrays = panel.data.filter((t) => t.meta.array && !t.meta.marks).map((t) => report.arrays[t.meta.array]);
  const steps = [...new Set(arrays.map((array) => array.steps[stepIndex(array)]))];
  const words = `step ${steps.map(grouped).join(" / ")}`;
  if (!arrays[0].snaps) return words;
  const seed = arrays[0].seeds[seedIndices(arrays[0])[0]];
  return `seed ${seed}${averaging() || seed === state.seed ? "" : `, not ${state.seed}`}, ${words}`;
}

// ---- what a trace shows ---------------------------------------------------------------------------------

/** Mean over the selected seeds of array[seed, step, ...at]: a flat list of the dimensions that are left. */
function block(array, step, at, seeds = seedIndices(array)) {
  const values = valuesOf(array);
  const rest = array.shape.slice(2);
  const size = product(rest.slice(at.length));
  const offset = at.reduce((o, index, d) => o + index * product(rest.slice(d + 1)), 0);
  const sum = new Float64Array(size);
  const count = new Uint32Array(size);
  for (const seed of seeds) {
    const start = (seed * array.shape[1] + step) * product(rest) + offset;
    for (let i = 0; i < size; i++) {
      const value = values[start + i];
      if (Number.isFinite(value)) { sum[i] += value; count[i]++; }
    }
  }
  return Array.from(sum, (s, i) => (count[i] ? s / count[i] : null));
}

/** The part of an array that a trace shows; `rest`, last in `at`, is what all others leave over to 1. */
function part(array, step, at) {
  if (at.at(-1) !== "rest") return block(array, step, at);
  const others = block(array, step, at.slice(0, -1));
  const size = product(array.shape.slice(2 + at.length));
  return others.slice(0, size).map((_, i) => {
    let left = 1;
    for (let j = i; j < others.length; j += size) left = others[j] === null || left === null ? null : left - others[j];
    return left;
  });
}

/** sign(x) log10(1 + |x| / linear): as the colours of changes, linear near 0 and logarithmic beyond. */
const signedLog = (x, linear) => (x === null ? null : Math.sign(x) * Math.log10(1 + Math.abs(x) / linear));

const rows = (flat, width) => Array.from({ length: flat.length / width }, (_, row) => flat.slice(row * width, (row + 1) * width));

/** What a trace shows of its array, as plotly's attributes. */
function shown(trace, choice) {
  const { array: key, marks, summary, circle, choices, history, linear_below: linear } = trace.meta;
  const array = report.arrays[key];
  if (marks) return marked(array, trace.meta);
  const at = choices ? choices[choice] : trace.meta.at;
  if (history) {
    const columns = array.steps.map((_, step) => part(array, step, at));
    return { z: columns[0].map((_, row) => columns.map((column) => column[row])) };
  }
  const flat = part(array, stepIndex(array), at);
  if (summary) return circlePoints(flat, frequencyOf(report.arrays[summary], at[0]));
  if (circle !== undefined) return circleLabel(array, trace.meta);
  if (trace.type === "bar") return { y: flat };
  if (trace.type === "scatter") return { y: flat.map((x) => signedLog(x, linear)), customdata: flat };
  return { z: rows(flat, array.shape.at(-1)) };
}

/** Marks at the frequencies that any selected seed has, or the seed that another array shows. */
function marked(array, { marks, level, of }) {
  const shownBy = of && report.arrays[of];
  const seeds = shownBy ? [array.seeds.indexOf(shownBy.seeds[seedIndices(shownBy)[0]])] : seedIndices(array);
  const share = block(array, 0, [], seeds);
  const at = [...share.keys()].filter((i) => share[i] > 0);
  const [along, across] = [at.map((i) => array.coords[0][i]), at.map(() => level)];
  return {
    ...(marks === "x" ? { x: along, y: across } : { y: along, x: across }),
    customdata: at.map((i) => (seeds.length > 1 ? `${Math.round(share[i] * seeds.length)} of ${seeds.length} seeds` : `seed ${array.seeds[seeds[0]]}`)),
    "marker.opacity": at.map((i) => 0.4 + 0.6 * share[i]),
  };
}

/** Numbers 0..p-1 in a plane, coloured by the angle that a clock of frequency k gives them. */
function circlePoints(flat, k) {
  const [x, y] = rows(flat, flat.length / 2);
  return { x, y, "marker.color": x.map((_, n) => (n * (k ?? 0)) % x.length) };
}

const frequencyOf = (summary, circle) => block(summary, stepIndex(summary), [0])[circle];

/** What stands above a circle, and the two unmarked points that give all planes of a panel one range. */
function circleLabel(summary, { circle, points }) {
  const [k, share] = [0, 1].map((of) => block(summary, stepIndex(summary), [of])[circle]);
  const array = report.arrays[points];
  const radius = block(array, stepIndex(array), []).reduce((most, x) => Math.max(most, Math.abs(x ?? 0)), 0) || 1;
  const words = share === null ? "no plane" : `${Math.round(100 * share)}%`;
  return { x: [0, -radius, radius], y: [1.25 * radius, -radius, -radius], text: [k === null ? "no key frequency" : `k = ${k}, ${words}`, "", ""] };
}
