# `make report` trains and compares the four models; `make test` and `make lint` check the project.
# Each makes .venv first, once, from the pinned versions in constraints.txt.
# The report's own data, 5,000 real digits, is looked at in fewer epochs than models choose, and two models at once learn in less
# time than one on two cores, so that all of it takes minutes.
PYTHON ?= python3
DATA ?= mnist-5k
OUT ?= report
ARGS ?=
EPOCHS ?= $(if $(filter mnist-5k,$(DATA)),16)
JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install report test test-slow test-browser lint docs dist clean

install: $(STAMP)

# The stamp is written last: an installation that was cut off starts again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("vaekit needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "installing vaekit and its tools into .venv (a few minutes the first time)"
	@rm -f $@
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

report: $(STAMP)
	@$(BIN)/vaekit compare --data $(DATA) --out $(OUT) --sweeps --jobs $(JOBS) $(if $(EPOCHS),--epochs $(EPOCHS)) $(ARGS)

# A worker a core, a thread a worker: small networks are slowed down by more threads than cores. Each begins with a half of the
# files, so that what a file's tests share is made once, and who is done takes from the other.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-slow: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow $(ARGS)

# The explorer and the report in a real Chromium, headless: one that is installed or that VAEKIT_BROWSER names.
test-browser: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt playwright
	@{ [ -n "$$VAEKIT_BROWSER" ] || command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get; then \
	    echo "make test-browser needs Chromium: install it (Debian: apt-get install chromium), or say with VAEKIT_BROWSER where it is" >&2; \
	    exit 1; \
	  fi; \
	  echo "installing Debian's chromium" >&2 && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }; } > /dev/null
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

# The site, in docs/_build/html: the gallery's scripts run once and again when they change. A core a picture, no warnings.
docs: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html $(ARGS)
	@echo "the site: docs/_build/html/index.html"

# Wheel and sdist; the wheel is then installed in a fresh environment without extras, and tried from another folder.
dist: $(STAMP)
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@$(PYTHON) -m venv --clear .venv/tried
	@.venv/tried/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	@.ci/try-dist "$(CURDIR)/.venv/tried/bin" dist

clean:
	rm -rf .venv
