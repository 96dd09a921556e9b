# framefusion on a CPU. The default command answers a question about the bundled video:
#
#   docker build -t framefusion .
#   docker run --rm framefusion
#   docker run --rm -v "$PWD:/videos" framefusion ask /videos/street.mp4 "what is at the door?" --model Qwen/Qwen2.5-VL-3B-Instruct
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# PyPI's torch brings gigabytes of CUDA along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/framefusion/bin:$PATH
RUN python -m venv /opt/framefusion
WORKDIR /build
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" -c constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt .

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 framefusion
COPY --from=build /opt/framefusion /opt/framefusion
COPY src/framefusion/assets/videos/scenes.mp4 /home/framefusion/
ENV PATH=/opt/framefusion/bin:$PATH
USER 1000
WORKDIR /home/framefusion
ENTRYPOINT ["framefusion"]
CMD ["ask", "scenes.mp4", "which large thing came after the red circle?", "--compare"]
