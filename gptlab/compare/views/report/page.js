"use strict";
// Draws the figures in the colours of the theme in use, and answers the controls beside them.
const { themes, figures } = JSON.parse(document.getElementById("payload").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const hidden = {}; // figure -> the places of the arms that the reader took out
const views = {}; // figure -> its Vega view
for (const name of Object.keys(figures)) hidden[name] = new Set();
let chosen = null; // the switches of the curves

// A copy of a part of a specification, with every "theme:name" replaced by a colour.
function coloured(part, theme) {
  if (Array.isArray(part)) return part.map((item) => coloured(item, theme));
  if (part && typeof part === "object") {
    return Object.fromEntries(Object.entries(part).map(([key, item]) => [key, coloured(item, theme)]));
  }
  const named = typeof part === "string" && part.match(/^theme:([a-z0-9-]+)$/);
  return named ? theme[named[1]] : part;
}

async function draw(name, theme = themes[dark.matches ? "dark" : "light"], width = null) {
  const spec = coloured(figures[name], theme);
  const box = document.getElementById(name);
  if (name === "curves" && chosen) setCurves(spec, chosen);
  spec.padding.right += spec.usermeta.right ?? 0; // room for notes at the right
  spec.width = width ?? box.clientWidth;
  setParam(spec, "hidden", [...hidden[name]].map(Number));
  const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
  const embedded = await vegaEmbed(box, spec, { ...options, tooltip: { theme: dark.matches ? "dark" : "light" } });
  views[name]?.finalize();
  views[name] = embedded.view;
}

function setParam(spec, name, value) {
  spec.params.find((param) => param.name === name).value = value;
}

function drawAll(theme, width) {
  return Promise.all(Object.keys(figures).map((name) => draw(name, theme, width)));
}

// The switches of the curves: the axis that x is, the two scales, the range of y, the bands.
function setCurves(spec, { axis, xscale, yscale, range, bands }) {
  const { axes, ranges, ends } = spec.usermeta;
  const [low, high] = ranges[range] ?? [null, null];
  const [first, last] = ends[axis];
  const start = range === "half" ? last / 2 : xscale === "log" ? first : 0;
  for (const { encoding } of spec.layer) {
    const title = encoding.x.title && [axes[axis]];
    const format = axis === "seconds" ? "~g" : "~s";
    encoding.x = { ...encoding.x, field: axis, title, axis: { ...encoding.x.axis, format } };
    encoding.x.scale = { type: xscale, domain: [start, last * 1.01], nice: false };
    encoding.y.scale = { type: yscale, nice: false, ...(ranges[range] ? { domain: [low, high] } : { zero: false }) };
  }
  setParam(spec, "y_low", low);
  setParam(spec, "y_high", high);
  setParam(spec, "bands", bands === "on");
}

function listenToControls() {
  const form = document.querySelector(".controls");
  if (!form) return;
  const read = () => (chosen = Object.fromEntries(new FormData(form)));
  read();
  form.addEventListener("change", (event) => {
    if (event.target.name === "xscale") form.elements.range.value = event.target.value === "log" ? "whole" : "late";
    read();
    draw("curves");
  });
}

// A click takes an arm out or back in; a double click leaves it alone, or brings all back.
function listenToLegend(legend) {
  const names = legend.dataset.figure.split(" ");
  const out = new Set(); // of all its figures
  for (const name of names) hidden[name] = out;
  const buttons = [...legend.querySelectorAll("button")];
  const show = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(!out.has(button.dataset.arm)));
    for (const name of names) views[name]?.signal("hidden", [...out].map(Number)).runAsync();
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

// A table that is wider than its place shows each row as a list, with the titles of the columns before the cells.
function fitTables() {
  for (const box of document.querySelectorAll(".scroll")) {
    const table = box.querySelector("table");
    table.classList.remove("stacked");
    if (box.scrollWidth > box.clientWidth) table.classList.add("stacked");
  }
}

function titleCells() {
  for (const table of document.querySelectorAll(".scroll table")) {
    const titles = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent);
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, place) => titles[place] && (cell.dataset.title = titles[place]));
    }
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
titleCells();
fitTables();
listenToControls();
document.querySelectorAll(".legend").forEach(listenToLegend);
const drawn = drawAll();
dark.addEventListener("change", () => drawAll());
let resizing = 0;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  fitTables();
  resizing = setTimeout(drawAll, 150); // milliseconds after the last change of the window
});
const PAGE = 680; // pixels of a printed page's width
window.addEventListener("beforeprint", () => drawAll(themes.light, PAGE));
window.addEventListener("afterprint", () => drawAll());
