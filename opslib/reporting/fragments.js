"use strict";
(() => {
  const words = document.currentScript.dataset;
  if ("watch" in words && window.opslibWatches) return;
  const tool = (text, action) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tool";
    button.textContent = text;
    button.addEventListener("click", () => action(button));
    return button;
  };

  // Values sort by what they are (data-s, then data-v), not by how they look; unknown ones stay last either way.
  const key = (cell) => {
    if (cell.classList.contains("unknown")) return null;
    const raw = cell.dataset.s ?? cell.dataset.v ?? cell.textContent;
    const number = cell.dataset.s !== undefined || cell.classList.contains("number") ? Number(raw.replace("inf", "Infinity")) : NaN;
    return Number.isNaN(number) ? raw : number;
  };
  const order = new Intl.Collator(words.lang, { numeric: true });
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? (a < b ? -1 : a > b ? 1 : 0) : order.compare(String(a), String(b)));
  const sort = (table, column, heading) => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [key(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : descending ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };

  // A spreadsheet takes text that begins so for a formula.
  const quoted = (text, isData) => '"' + (isData && /^[=+\-@\t\r]/.test(text) ? "'" + text : text).replaceAll('"', '""') + '"';
  const csv = (table) => {
    const line = (row) =>
      Array.from(row.cells, (cell) => {
        if (cell.classList.contains("unknown")) return "";
        return cell.dataset.v ?? quoted(cell.textContent, true);
      }).join(",");
    return "\ufeff" + [table.tHead.rows[0], ...table.tBodies[0].rows].map(line).join("\r\n") + "\r\n";
  };
  const save = (table) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = (table.dataset.name || "table").replace(/[^\w.-]+/g, "_") + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const copy = async (pre, button) => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
    } catch {
      // No clipboard on a page from a file in some browsers: select it, the reader copies.
      const range = document.createRange();
      range.selectNodeContents(pre);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      return;
    }
    button.textContent = words.copied;
    setTimeout(() => (button.textContent = words.copy), 1500);
  };

  const enliven = () => {
    for (const table of document.querySelectorAll(".opslib table.sortable:not([data-live])")) {
      table.dataset.live = "";
      Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...heading.childNodes);
        button.addEventListener("click", () => sort(table, column, heading));
        heading.append(button);
      });
      table.parentElement.before(tool(words.csv, () => save(table)));
    }
    for (const pre of document.querySelectorAll(".opslib pre.command:not([data-live])")) {
      pre.dataset.live = "";
      pre.before(tool(words.copy, (button) => copy(pre, button)));
    }
  };
  enliven();
  if ("watch" in words) {
    // In JupyterLab what comes later is enlivened as it comes.
    window.opslibWatches = true;
    new MutationObserver(enliven).observe(document.body, { childList: true, subtree: true });
  }
})();
