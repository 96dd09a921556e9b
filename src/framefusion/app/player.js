// The player of frames: runs once, in a component whose content comes and goes.
let clock = null;

const stop = () => {
  clearInterval(clock);
  clock = null;
  const button = element.querySelector(".play");
  if (button) button.textContent = "Play";
};

const show = (number) => {
  const frames = [...element.querySelectorAll("figure")];
  const range = element.querySelector("input[type=range]");
  frames.forEach((frame, place) => { frame.hidden = place + 1 !== number; });
  range.value = number;
  range.setAttribute("aria-valuetext", frames[number - 1].querySelector("figcaption").innerText);
};

const step = () => {
  const range = element.querySelector("input[type=range]");
  if (!range) return stop();
  show(Number(range.value) % Number(range.max) + 1);
};

element.addEventListener("input", (event) => {
  if (event.target.type !== "range") return;
  stop();
  show(Number(event.target.value));
});

element.addEventListener("click", (event) => {
  if (!event.target.classList.contains("play")) return;
  if (clock) return stop();
  clock = setInterval(step, 400);
  event.target.textContent = "Pause";
  step();
});

watch("value", stop);
