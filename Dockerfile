# The locked dependencies, with Snakemake as the command. The project is mounted, so results stay outside the image.
#   docker build -t lplgrad .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/study" lplgrad --configfile demo.yaml
FROM python:3.12-slim
COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.lock && rm /tmp/requirements.lock
ENV PYTHONPATH=/study/src XDG_CACHE_HOME=/tmp/cache HOME=/tmp
WORKDIR /study
ENTRYPOINT ["snakemake"]
