// Wide tables scroll in their own box, never the page.
addEventListener('DOMContentLoaded', () => {
  for (const table of document.querySelectorAll('.bd-article table:not(.results)')) {
    if (table.closest('.table-box, .jupyter-widgets')) continue;
    const box = document.createElement('div');
    box.className = 'table-box';
    table.replaceWith(box);
    box.append(table);
  }
});

// A full stop or comma after a formula stays on its line.
addEventListener('DOMContentLoaded', () => {
  for (const formula of document.querySelectorAll('.bd-article span.math')) {
    const next = formula.nextSibling, mark = next?.nodeType === Node.TEXT_NODE && next.data.match(/^[^\s\w]+/);
    if (!mark) continue;
    const both = document.createElement('span');
    both.style.whiteSpace = 'nowrap';
    formula.replaceWith(both);
    next.data = next.data.slice(mark[0].length);
    both.append(formula, mark[0]);
  }
});
