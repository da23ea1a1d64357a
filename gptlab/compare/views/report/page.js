"use strict";
// Draw the figures in the colours of the current theme, and respond to the controls beside them.
const { themes, figures } = JSON.parse(document.getElementById("payload").textContent);
const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const hidden = {}; // figure -> the indices of the arms that the reader has hidden
for (const name of Object.keys(figures)) hidden[name] = new Set();

// Copy a part of a figure and replace every "theme:name/opacity" by a colour.
function coloured(part, theme) {
  if (Array.isArray(part)) return part.map((item) => coloured(item, theme));
  if (part && typeof part === "object") {
    return Object.fromEntries(Object.entries(part).map(([key, item]) => [key, coloured(item, theme)]));
  }
  const named = typeof part === "string" && part.match(/^theme:([a-z0-9-]+)(?:\/([0-9.]+))?$/);
  if (!named) return part;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(theme[named[1]].slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${named[2] ?? 1})`;
}

function draw(name, theme = themes[dark.matches ? "dark" : "light"], width = undefined) {
  const figure = figures[name];
  for (const trace of figure.data) {
    const off = hidden[name].has(trace.legendgroup) || (trace.meta?.band && !figure.bands);
    trace.visible = !off;
  }
  for (const note of figure.layout.annotations ?? []) if (note.name) note.visible = !hidden[name].has(note.name);
  const layout = coloured(figure.layout, theme);
  if (width) layout.width = width;
  return Plotly.react(name, coloured(figure.data, theme), layout, config);
}

function drawAll(theme, width) {
  for (const name of Object.keys(figures)) draw(name, theme, width);
}

// Apply the switches of the curves: the x axis, the two scales, the range of y, the bands.
function setCurves(form) {
  const figure = figures.curves;
  const chosen = Object.fromEntries(new FormData(form));
  const { xaxis, yaxis } = figure.layout;
  const range = figure.ranges[chosen.range];
  for (const trace of figure.data) {
    trace.x = figure.xs[trace.meta.line][chosen.axis];
    if (trace.meta.clamp && range) trace.y = trace.meta.clamp.map((y) => y && Math.min(Math.max(y, range[0]), range[1]));
  }
  figure.bands = chosen.bands === "on";
  xaxis.title.text = figure.axes[chosen.axis];
  xaxis.tickformat = chosen.axis === "seconds" ? "~g" : "~s";
  setAxis(xaxis, chosen.xscale, xRange(figure, chosen));
  const decades = chosen.xscale === "log" && xaxis.range ? xaxis.range[1] - xaxis.range[0] : 0;
  xaxis.dtick = decades > 3 ? 1 : decades > 0.7 ? "D2" : undefined; // D2: ticks at 2, 5 and 10, whose labels do not overlap
  setAxis(yaxis, chosen.yscale, range);
  figure.layout.uirevision = JSON.stringify(chosen); // a new choice resets the zoom
}

// The range of x from its middle, or from the first point that the scale can show, to the end.
function xRange(figure, { axis, xscale, range }) {
  const all = figure.xs.flatMap((x) => x[axis]).filter((x) => x > 0);
  if (!all.length) return null;
  const [first, last] = all.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, 0]);
  const start = range === "half" ? last / 2 : xscale === "log" ? first : 0;
  return [start, last * (xscale === "log" ? 1.02 : 1) + (xscale === "log" ? 0 : 0.01 * (last - start))];
}

function setAxis(axis, scale, range) {
  axis.type = scale;
  axis.autorange = !range;
  axis.range = range && (scale === "log" ? range.map((value) => Math.log10(Math.max(value, 1e-9))) : range);
}

function listenToControls() {
  const form = document.querySelector(".controls");
  if (!form) return;
  setCurves(form);
  form.addEventListener("change", (event) => {
    if (event.target.name === "xscale") form.elements.range.value = event.target.value === "log" ? "whole" : "late";
    setCurves(form);
    draw("curves");
  });
}

// A click hides or shows an arm; a double click shows it alone, or shows all arms again.
function listenToLegend(legend) {
  const names = legend.dataset.figure.split(" ");
  const out = new Set(); // hidden in all figures of this legend
  for (const name of names) hidden[name] = out;
  const buttons = [...legend.querySelectorAll("button")];
  const show = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(!out.has(button.dataset.arm)));
    for (const name of names) draw(name);
  };
  for (const button of buttons) {
    const arm = button.dataset.arm;
    button.addEventListener("click", () => {
      if (!out.delete(arm)) out.add(arm);
      show();
    });
    button.addEventListener("dblclick", () => {
      const others = buttons.map((other) => other.dataset.arm).filter((other) => other !== arm);
      const alone = others.every((other) => out.has(other));
      out.clear();
      if (!alone) for (const other of others) out.add(other);
      show();
    });
  }
}

function listSections() {
  for (const section of document.querySelectorAll("main > section")) {
    const link = document.createElement("a");
    link.href = `#${section.id}`;
    link.textContent = section.querySelector("h2").textContent;
    document.querySelector("nav").append(link);
  }
}

listSections();
listenToControls();
drawAll();
document.querySelectorAll(".legend").forEach(listenToLegend);
dark.addEventListener("change", () => drawAll());
const PAGE = 680; // width of a printed page in pixels
window.addEventListener("beforeprint", () => drawAll(themes.light, PAGE));
window.addEventListener("afterprint", () => drawAll());
