"use strict";
const root = document.documentElement;
const failures = [];
addEventListener("error", (event) => note(event.message));
addEventListener("unhandledrejection", (event) => note(String(event.reason)));

function note(message) {
  failures.push(message);
  root.dataset.errors = failures.join("\n");
}

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

/* Figures: Plotly comes packed in the page, so that the file stays small. */

async function unpacked() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await unpacked();
  document.head.append(script);
}

const touch = matchMedia("(hover: none)").matches; // a finger scrolls the page and does not zoom a figure

function dressed(layout, narrow) {
  const ink = { gridcolor: css("--faint"), zerolinecolor: css("--soft"), linecolor: css("--faint") };
  return {
    margin: { l: 12, r: 14, t: 12, b: 40 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: css("--sans"), size: narrow ? 11 : 12.5, color: css("--ink") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { align: "left", bgcolor: css("--card"), bordercolor: css("--faint"), font: { color: css("--ink") } },
    uniformtext: { mode: "show", minsize: 9 },
    modebar: { bgcolor: "transparent", color: css("--soft"), activecolor: css("--mark") },
    separators: ".,",
    ...layout,
    xaxis: { ...ink, zeroline: false, fixedrange: touch, ...layout.xaxis },
    yaxis: { ...ink, zeroline: false, fixedrange: touch, ...layout.yaxis },
  };
}

function draw(figures) {
  const narrow = innerWidth < 640;
  const config = { responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  for (const [key, figure] of Object.entries(figures)) {
    const box = document.getElementById(`figure-${key}`);
    Plotly.react(box, figure.data, dressed(figure.layout, narrow), config);
  }
}

async function drawAll() {
  const figures = read("figures");
  if (Object.keys(figures).length) {
    try {
      await loadPlotly();
      draw(figures);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(figures));
    } catch (error) {
      note(String(error));
      for (const box of document.querySelectorAll(".plot")) {
        box.style.height = "auto";
        box.innerHTML = '<p class="failure">This browser cannot draw the figure; its table is below.</p>';
      }
    }
  }
  root.dataset.ready = "true";
}

/* Tables: sorted by a click on a heading, long ones cut until asked for. */

function numeric(text) {
  const number = parseFloat(text.replace(/,/g, "").replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}

function compare(a, b) {
  const [x, y] = [numeric(a), numeric(b)];
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x === null ? 1 : -1;
  return a.localeCompare(b);
}

function sort(table, column, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(a.cells[column].textContent, b.cells[column].textContent) * (down ? -1 : 1));
  table.tBodies[0].append(...rows);
  cut(table);
}

function cut(table) {
  const most = table.dataset.rows ? Number(table.dataset.rows) : Infinity;
  [...table.tBodies[0].rows].forEach((row, index) => { row.hidden = index >= most; });
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.tabIndex = 0;
    heading.addEventListener("click", () => sort(table, column, heading));
    heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(table, column, heading); });
  });
  if (!table.dataset.rows) continue;
  cut(table);
  const more = document.createElement("button");
  more.className = "more";
  more.textContent = `Show all ${table.tBodies[0].rows.length} rows`;
  more.addEventListener("click", () => { delete table.dataset.rows; cut(table); more.remove(); });
  table.closest("details").append(more);
}

/* The command and the records. */

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  });
}

function csv({ rows }) {
  const names = Object.keys(rows[0] ?? {});
  const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return [names, ...rows.map((row) => names.map((name) => row[name]))]
    .map((row) => row.map((value) => cell(String(value ?? ""))).join(",")).join("\n");
}

document.getElementById("download").addEventListener("click", () => {
  const records = read("records");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(records)], { type: "text/csv" }));
  link.download = `${records.study}.csv`;
  link.click();
});

drawAll();
