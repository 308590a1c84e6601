# Each of these is one call of .ci/house.py, which makes the environment first if it is not there.
# Where there is no make (Windows): python .ci/house.py lab

PYTHON ?= python3
HOUSE = $(PYTHON) .ci/house.py
NB ?=

.DEFAULT_GOAL := help
.PHONY: help lab test run export style docs data sheets bench test-browser pins clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

lab: ## read and run the lessons: JupyterLab at the map of the course
	@$(HOUSE) lab

test: ## prove that everything works: notebooks, package, style, site, browser
	@$(HOUSE) test

run: ## run notebooks and save their outputs: all, or NB="nbs/2_foundations/02_sgd.ipynb"
	@$(HOUSE) run $(NB)

export: ## make the package and README.md from the notebooks
	@$(HOUSE) export --readme

style: ## the figures of each lesson, and every warning: all, or NB=...
	@$(HOUSE) style $(NB)

docs: ## build the site in _docs/
	@$(HOUSE) docs

data: ## list the data sets, or fetch: NAMES="fashion_mnist movielens"
	@$(HOUSE) data $(NAMES)

sheets: ## write the workbooks with live formulas into _sheets/
	@$(HOUSE) sheets

bench: ## measure speed beside that of others
	@$(HOUSE) bench

test-browser: ## open JupyterLab in a real browser, run a lesson, move a slider
	@$(HOUSE) browser

pins: ## choose the newest versions that fit settings.ini and pin them
	@$(HOUSE) pins

clean: ## remove what was made here: .venv, the built site, caches (not the data)
	@rm -rf .venv _docs _proc build dist _sheets *.egg-info .pytest_cache .ruff_cache .import_linter_cache .jupyter
	@find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
