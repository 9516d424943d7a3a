"use strict";
// Two lines over every time plot: the selected checkpoint, and the step under the pointer in any one of them.
// They lie over plotly's drawing, so moving them redraws nothing.

const pointer = { step: null, panel: null, frame: 0, scrolled: 0 };

function addCursors(panel) {
  panel.cursors = ["selected", "pointed"].map((name) => {
    const line = document.createElement("i");
    line.className = `cursor ${name}`;
    line.setAttribute("aria-hidden", "true");
    panel.div.append(line);
    return line;
  });
  panel.div.on("plotly_afterplot", () => placeCursors(panel));
  panel.div.addEventListener("pointermove", (event) => pointAt(panel, event));
  panel.div.addEventListener("pointerleave", () => point(null, null));
}

/** Where a panel has its axes, in pixels of its own. */
function axes(panel) {
  const { xaxis, yaxis } = panel.div._fullLayout;
  return { x: xaxis, left: xaxis._offset, width: xaxis._length, top: yaxis._offset, height: yaxis._length };
}

function placeCursors(panel) {
  const steps = [report.steps.length ? state.step : null, pointer.step];
  steps.forEach((step, i) => place(panel, panel.cursors[i], step));
  panel.cursors[1].textContent = panel === pointer.panel ? `step ${grouped(pointer.step)}` : "";
}

function place(panel, line, step) {
  const { x, left, width, top, height } = axes(panel);
  const at = step === null ? NaN : x.d2p(step);
  line.hidden = !(at >= -0.5 && at <= width + 0.5);
  if (line.hidden) return;
  line.classList.toggle("late", at > width / 2);
  line.style.cssText = `left:${left + at}px;top:${top}px;height:${height}px`;
}

function pointAt(panel, event) {
  if (event.pointerType === "touch") return;
  pointer.scrolled = scrollY;
  const box = panel.div.getBoundingClientRect();
  const { x, left, width, top, height } = axes(panel);
  const [across, down] = [event.clientX - box.left - left, event.clientY - box.top - top];
  const inside = across >= 0 && across <= width && down >= 0 && down <= height;
  point(inside ? Math.max(0, Math.round(x.p2d(across))) : null, inside ? panel : null);
}

function point(step, panel) {
  if (step === pointer.step && panel === pointer.panel) return;
  Object.assign(pointer, { step, panel });
  pointer.frame ||= requestAnimationFrame(() => {
    pointer.frame = 0;
    panels.filter((p) => p.cursors && (isOnScreen(p) || !p.cursors[1].hidden)).forEach(placeCursors);
  });
}

function isOnScreen(panel) {
  if (panel.box.hidden) return false;
  const { top, bottom } = panel.div.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

// What moves away under the pointer is not pointed at.
addEventListener("scroll", () => scrollY === pointer.scrolled || point(null, null), { passive: true });
