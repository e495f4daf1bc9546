# Every target makes .venv when it is missing or older than the pinned versions.

PYTHON ?= python3
PHOTO ?= examples/photo.jpg
OUT ?= retouched
VENV := .venv/ready
BIN := .venv/bin

# PyPI's PyTorch for Linux brings CUDA, 5 to 6 GB. Where no NVIDIA driver is found, its CPU build is fetched from here
# first; where this is out of reach (offline, a mirror), what pip is set up for decides. Empty leaves it to pip at once.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi 2> /dev/null),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

# Spinning OpenMP barriers make small machines up to 50 times slower.
export GOMP_SPINCOUNT ?= 2000

.PHONY: retouch space train-demo test lint docs bounds foreign mutation bench fuzz bundle-code

retouch: $(VENV)  ## retouch PHOTO into the folder OUT, with four expert variants and a side-by-side picture
	$(BIN)/diffretouch retouch "$(PHOTO)" -o "$(OUT)" --variants 4 --compare --overwrite

space: $(VENV)  ## the web page, on this machine: http://127.0.0.1:7860
	$(BIN)/python space/app.py

train-demo: $(VENV)  ## one minute of training on a data set built from the example photos, anew each time
	rm -rf runs/train-demo
	$(BIN)/python dataset_card/build_dataset.py examples runs/train-demo/data --table examples/photos.tsv --long_side 192
	$(BIN)/python train_lora/train_full.py --recipe smoke dataset=runs/train-demo/data output_dir=runs/train-demo/model

test: $(VENV) .venv/browser .venv/docs
	$(BIN)/python -m pytest

lint: $(VENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV) .venv/docs  ## the documentation site; any warning, such as a broken link, is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env docs/site build/site
	@echo "Open build/site/index.html"

bounds: $(VENV)  ## installs the oldest and the newest versions that pyproject.toml allows, and tries them; takes 7 GB
	$(BIN)/python .ci/bounds.py

foreign: $(VENV)  ## diffusers' own common tests on our pipeline and models: make foreign DIFFUSERS=path/to/its/checkout
	$(BIN)/python .ci/foreign_suites.py "$(DIFFUSERS)"

mutation: $(VENV)  ## changes the code of model/ and photo/ in small ways, to see tests fail; takes hours, the same again goes on
	$(BIN)/python .ci/mutation.py

bench: $(VENV)  ## time and memory of a retouch file to file, of the apply alone, and of a batch
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/retouch.py examples/photo.jpg --megapixels 12 24 100 -o benchmarks/results/retouch.json
	$(BIN)/python benchmarks/apply.py examples/photo.jpg -o benchmarks/results/apply.json
	$(BIN)/python benchmarks/batch.py examples/photo.jpg -o benchmarks/results/batch.json

fuzz: $(VENV)  ## nightly: 10,000 damaged photo files, of which nothing but photos and the package's own errors may come
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/fuzz.py --inputs 10000 -o benchmarks/results/fuzz.json

bundle-code:  ## after a change in model/: its copies in the bundled model
	cp pipeline/diffretouch/model/*_diffretouch.py pipeline/diffretouch/bundled/
	cp pipeline/diffretouch/model/modeling_affine_grid.py pipeline/diffretouch/bundled/grid_head/
	cp pipeline/diffretouch/model/modeling_latent_codec.py pipeline/diffretouch/bundled/vae/

# The page is tested in Chromium: Debian's is installed where that is allowed, else those tests say that they are skipped.
.venv/browser: $(VENV)
	@command -v chromium chromium-browser google-chrome > /dev/null \
	|| { [ "$$(id -u)" = 0 ] && apt-get install --yes --quiet=2 --no-install-recommends chromium > .venv/browser.log 2>&1; } \
	|| echo "Chromium is not installed: the tests that need a browser will be skipped."
	@touch $@

# Small beside the rest, and apart from it: a retouch needs none of it. The tests build the site.
.venv/docs: $(VENV) requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

$(VENV): requirements.txt requirements-no-deps.txt pyproject.toml
	$(PYTHON) -m venv .venv
	@[ -z "$(TORCH_INDEX)" ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 0 --timeout 10 \
	--no-deps --index-url "$(TORCH_INDEX)" $$(grep ^torch== requirements.txt) > .venv/torch.log 2>&1 \
	|| echo "No PyTorch from $(TORCH_INDEX): it comes from where pip is set up for, on Linux maybe with CUDA (5 to 6 GB)."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt -e .
	touch $@
