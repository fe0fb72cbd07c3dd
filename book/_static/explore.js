/* The page Explore: rows of a results file, to filter, sort, plot and download. Data come as scripts (data/RUN/STUDY.js). */
document.addEventListener("DOMContentLoaded", () => {
  "use strict";
  const root = document.querySelector(".lip-explore");
  if (!root) return;
  const body = root.querySelector(".lip-explore-body");
  const menu = root.querySelector("select");
  const loaded = {};
  const PAGE = 100, PLOTTED = 60, FIRST = 15, CHOICES = 60;
  let rows = [], names = [], filters = {}, order = { by: null, down: false }, shown = PAGE;

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const text = (value) => value === null ? "–" : typeof value === "number" && !Number.isInteger(value)
    ? String(Number(value.toPrecision(4))) : String(value);
  const compare = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1
    : typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  window.lipExplore = (key, packed) => {
    const columns = Object.entries(packed).map(([name, c]) =>
      [name, c.words ? c.at.map((i) => i === null ? null : c.words[i]) : c]);
    loaded[key] = {
      names: columns.map(([name]) => name),
      rows: columns[0][1].map((_, i) => Object.fromEntries(columns.map(([name, values]) => [name, values[i]]))),
    };
    if (key === menu.value) start();
  };

  const load = () => {
    if (loaded[menu.value]) return start();
    body.replaceChildren(make("p", { role: "status" }, "Reading the table …"));
    document.head.append(make("script", { src: `${root.dataset.folder}/${menu.value}.js` }));
  };

  const start = () => {
    ({ rows, names } = loaded[menu.value]);
    filters = {}; order = { by: null, down: false }; shown = PAGE;
    const form = make("div", { class: "lip-explore-filters" });
    for (const name of names) {
      const values = [...new Set(rows.map((row) => row[name]))];
      if (values.length < 2 || values.length > CHOICES || ["value", "ci_low", "ci_high"].includes(name)) continue;
      const select = make("select", { on: { change: (event) => {
        const chosen = event.target.selectedIndex;
        if (chosen) filters[name] = values[chosen - 1]; else delete filters[name];
        shown = PAGE; draw();
      } } }, make("option", {}, "all"));
      values.sort(compare).forEach((value) => select.append(make("option", {}, text(value))));
      form.append(make("label", {}, `${name} `, select));
    }
    body.replaceChildren(
      form,
      make("p", {}, make("span", { role: "status", class: "lip-explore-count" }), " ",
        make("button", { type: "button", on: { click: download } }, "Download these rows (CSV)")),
      make("div", { class: "lip-explore-plot" }),
      make("div", { class: "lip-table lip-explore-table", tabindex: "0", role: "region", "aria-label": "Rows of the table" }),
      make("p", { class: "lip-explore-more" }));
    draw();
  };

  const chosen = () => {
    const found = rows.filter((row) => Object.entries(filters).every(([name, value]) => row[name] === value));
    if (order.by) found.sort((a, b) => compare(a[order.by], b[order.by]) * (order.down ? -1 : 1));
    return found;
  };

  const draw = () => {
    const found = chosen();
    const left = found.length - shown;
    body.querySelector(".lip-explore-count").textContent =
      `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`
      + `${left > 0 ? `, the first ${shown.toLocaleString("en")} of them in the table below, which scrolls` : ""}.`;
    const head = make("tr", {}, ...names.map((name) => make("th", {
      scope: "col", "aria-sort": order.by === name ? (order.down ? "descending" : "ascending") : "none",
    }, make("button", { type: "button", on: { click: () => {
      order = { by: name, down: order.by === name && !order.down }; draw();
      [...body.querySelectorAll("th button")].find((button) => button.textContent.startsWith(name)).focus();
    } } }, name + (order.by === name ? (order.down ? " ▼" : " ▲") : "")))));
    const lines = found.slice(0, shown).map((row) => make("tr", {}, ...names.map((name) => make("td", {}, text(row[name])))));
    body.querySelector(".lip-explore-table").replaceChildren(make("table", {},
      make("caption", {}, menu.selectedOptions[0].textContent), make("thead", {}, head), make("tbody", {}, ...lines)));
    body.querySelector(".lip-explore-more").replaceChildren(...(left > 0 ? [make("button", {
      type: "button", on: { click: () => { shown += 5 * PAGE; draw(); } } },
    left > 5 * PAGE ? `Add ${5 * PAGE} of the other ${left.toLocaleString("en")} rows to the table` : `Add the other ${left} rows to the table`)] : []));
    plot(found);
  };

  /* A dot and its interval for each row that is chosen, named by what tells these rows apart. Of many rows the first of
     one metric: different metrics have no axis in common. */
  const plot = (found) => {
    const place = body.querySelector(".lip-explore-plot");
    const valued = found.filter((row) => row.value !== null);
    if (!valued.length) {
      place.replaceChildren(make("p", { class: "lip-note" }, "There is no value to plot."));
      return;
    }
    const { metric } = valued[0], alike = valued.filter((row) => row.metric === metric);
    const dots = alike.slice(0, alike.length > PLOTTED ? FIRST : PLOTTED);
    const drawn = dots.length === valued.length ? "" : `Drawn: ${dots.length === alike.length ? "the" : "the first"} `
      + `${dots.length} rows${metric ? ` of ${metric}` : ""}. Filter or sort the table to draw others.`;
    const telling = names.filter((name) => !["value", "ci_low", "ci_high", "n", "n_faces", "clean_rate"].includes(name)
      && new Set(dots.map((row) => row[name])).size > 1);
    const label = (row) => telling.map((name) => text(row[name])).join(" · ") || text(row.metric);
    const low = Math.min(0, ...dots.map((r) => r.ci_low ?? r.value)), high = Math.max(...dots.map((r) => r.ci_high ?? r.value), low + 1e-9);
    const narrow = place.clientWidth < 500;  // names above their lines
    const [LEFT, WIDTH, LINE] = narrow ? [10, 380, 36] : [300, 720, 20];
    const height = LINE * (dots.length + 2);
    const x = (value) => LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 70);
    const svg = (tag, attributes, content) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (content !== undefined) node.textContent = content;
      return node;
    };
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img",
      "aria-label": `${dots.length} values with their intervals; the same numbers are in the table below` });
    for (const tick of [low, (low + high) / 2, high]) {
      picture.append(svg("line", { x1: x(tick), x2: x(tick), y1: LINE, y2: height, class: "grid" }));
      picture.append(svg("text", { x: x(tick), y: LINE - 6, "text-anchor": "middle" }, text(tick)));
    }
    dots.forEach((row, i) => {
      const y = LINE * (i + 1.6), name = label(row);
      picture.append(svg("text", narrow ? { x: 0, y: y - 9 } : { x: LEFT - 10, y: y + 4, "text-anchor": "end" }, name.length > 46 ? `${name.slice(0, 45)}…` : name));
      if (row.ci_low !== null && row.ci_low !== undefined && row.ci_high !== null)
        picture.append(svg("line", { x1: x(row.ci_low), x2: x(row.ci_high), y1: y, y2: y, class: "interval" }));
      picture.append(svg("circle", { cx: x(row.value), cy: y, r: 4 }));
      picture.append(svg("text", { x: WIDTH - 62, y: y + 4 }, text(row.value)));
    });
    place.replaceChildren(...(drawn ? [make("p", { class: "lip-note lip-explore-drawn" }, drawn)] : []), picture);
  };

  const download = () => {
    const field = (value) => value === null ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
    const lines = [names, ...chosen().map((row) => names.map((name) => row[name]))].map((line) => line.map(field).join(","));
    const address = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    make("a", { href: address, download: `${menu.value.replace("/", "-")}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };

  menu.addEventListener("change", load);
  load();
  load();
});
