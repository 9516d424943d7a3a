"use strict";
// The colours of the plots. Figures come in their light colours; `report.dark` has what each is on dark.

const onDark = () => theme.isDark() && !theme.onWhite;
const shade = (light) => (onDark() ? report.dark[light] ?? light : light);

/** Where an object has colours: [the object or list itself, key, the light colour]. */
function* colourSites(value) {
  if (value === null || typeof value !== "object" || ArrayBuffer.isView(value)) return;
  for (const [key, inner] of Object.entries(value)) {
    if (typeof inner === "string") {
      if (Object.hasOwn(report.dark, inner)) yield [value, key, inner];
    } else yield* colourSites(inner);
  }
}

/** Give a panel the colours of the page's theme; plotly sees them when it next draws everything. */
function paint(panel) {
  for (const [owner, key, light] of panel.colours) owner[key] = shade(light);
  panel.painted = onDark();
}

/** A copy of some of plotly's attributes in the colours of the page's theme. */
function painted(attributes) {
  const copy = structuredClone(attributes);
  for (const [owner, key, light] of [...colourSites(copy)]) owner[key] = shade(light);
  return copy;
}
