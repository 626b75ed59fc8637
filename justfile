# What CI runs, and what keeps the documents true. `just` lists it.

_default:
    @just --list

# Everything that CI checks.
check:
    bash .ci/run

# The README's second command.
test:
    cargo test --workspace

# Formats and lints.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Writes REFERENCE.md from the registry.
reference:
    UPDATE_REFERENCE=1 cargo test -p calabi-tests --test documents

# The plugins in workspaces of their own.
plugins:
    cd examples/custom-selector && cargo test
    cd examples/custom-allocator && cargo test

# Trains the model of the quickstart anew (needs Python with numpy, scikit-learn, onnx and safetensors).
quickstart-model:
    python3 examples/quickstart/train.py

# Compresses MiniLM and SmolLM2 and checks the results with other programs; FOLDER holds them (tests/python/check_real_models.py).
real-models folder:
    cargo build --release -p calabi-cli
    python3 tests/python/check_real_models.py target/release/calabi-cli {{folder}}

# Loads what calabi writes in transformers 5; PYTHON has torch and transformers (tests/python/check_loading.py).
loading python:
    cargo build --release -p calabi-cli
    {{python}} tests/python/check_loading.py target/release/calabi-cli

# Decomposers by shape and rank.
bench:
    cargo bench -p calabi-svd

# The wheel of the Python package, in target/wheels; PYTHON has maturin.
wheel python:
    {{python}} -m maturin build --release -m python/Cargo.toml -o target/wheels

# The extension beside the Python package, and its tests; PYTHON has pytest, and torch and transformers for all of them.
test-python python:
    cargo build --release -p calabi-python
    cp target/release/lib_engine.so python/calabi/_engine.abi3.so
    cd python && {{python}} -m pytest tests

# Instructions of the hot paths, kept anew (tests/callgrind/check_instructions).
instructions:
    cargo build --release -p calabi-svd --example time_factorization
    tests/callgrind/check_instructions target/release/examples/time_factorization --update

# The same factorization in numpy and torch, beside ours.
bench-peers:
    python3 benches/peers/decompose.py
