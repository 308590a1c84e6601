// Built without npm: formulas stay in TeX.
