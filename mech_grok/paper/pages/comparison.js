"use strict";
// The table beside the published numbers as CSV, one row a value.

document.querySelector(".compared-csv")?.addEventListener("click", () => {
  const { name, rows } = JSON.parse(document.getElementById("compared-data").textContent);
  const columns = Object.keys(rows[0]);
  save(`${name}.csv`, asCsv([columns, ...rows.map((row) => columns.map((column) => row[column] ?? ""))]));
});
