# seedbed on a CPU:
#   docker build -t seedbed .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/out" seedbed generate "a red circle moving left" --verifier shapes
# Beside the base image, the build needs the package index alone. There, torch for x86 brings CUDA along, several GB;
#   --build-arg TORCH_INDEX=...
# with the index that PyTorch's page of installation names for a CPU takes the one without it. BASE may be any image with Python 3.10 or newer and pip.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --wheel-dir /dist .

FROM ${BASE}
ARG TORCH_INDEX=
COPY constraints.txt /tmp/
COPY --from=build /dist /tmp/dist
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c /tmp/constraints.txt /tmp/dist/*.whl \
    && seedbed doctor
# Whoever it runs as has a place for what libraries cache.
ENV HOME=/tmp
WORKDIR /out
ENTRYPOINT ["seedbed"]
CMD ["--help"]
