"use strict";
// Sorting the answers: rows carry their numbers, the page works without this script.
document.querySelectorAll("select[data-sorts]").forEach((select) => {
  const body = document.getElementById(select.dataset.sorts).tBodies[0];
  const sort = () => {
    const [key, direction] = select.value.split(" ");
    const number = (row) => Number(row.dataset[key]);
    const rows = Array.from(body.rows);
    rows.sort((a, b) => direction * (number(a) - number(b)) || a.dataset.order - b.dataset.order);
    body.append(...rows);
  };
  select.addEventListener("change", sort);
  sort();
});
