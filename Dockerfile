# CPU:  docker build -t snrmix --build-arg TORCH_INDEX=ADDRESS .   (the index of CPU builds that PyTorch's page on installing names;
#       without it pip takes the build of its own index, which is larger and runs on the CPU too)
# GPU:  docker build -t snrmix:gpu --build-arg DEVICE=gpu .        (run it with --gpus all)
# Use:  docker run --rm -u $(id -u):$(id -g) -v $PWD:/data snrmix impute section.h5ad -o imputed.h5ad
FROM python:3.11-slim

ARG DEVICE=cpu
ARG TORCH_INDEX=
ARG EXTRAS=cluster,openslide

# Workflow managers look at processes with ps.
RUN apt-get update \
    && apt-get install -y --no-install-recommends procps \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/snrmix
COPY constraints.txt ./
RUN if [ "$DEVICE" = cpu ] && [ -n "$TORCH_INDEX" ]; then index="--index-url $TORCH_INDEX"; else index=""; fi \
    && pip install --no-cache-dir -c constraints.txt $index torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]" \
    && snrmix --version

# Any user may run it, also one that has no home.
RUN useradd --create-home --uid 1000 snrmix
ENV MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1
USER snrmix
WORKDIR /data
ENTRYPOINT ["snrmix"]
CMD ["--help"]
