"use strict";
// On paper: the light colours, everything drawn, at the width of the sheet.

function beforePrint() {
  theme.onWhite = true;
  document.documentElement.classList.add("printing");
  panels.filter((p) => !p.box.hidden).forEach((panel) => {
    waiting.delete(panel);
    update(panel);
    Plotly.relayout(panel.div, { width: panel.div.clientWidth, height: panel.div.clientHeight });
  });
}

function afterPrint() {
  theme.onWhite = false;
  document.documentElement.classList.remove("printing");
  panels.filter((p) => p.drawn).forEach((p) => Plotly.relayout(p.div, { width: null, height: null, autosize: true }));
  refresh();
}

addEventListener("beforeprint", beforePrint);
addEventListener("afterprint", afterPrint);
