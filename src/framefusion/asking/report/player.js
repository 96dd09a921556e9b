// The frame that is chosen, large, with a slider, a button to play, and a click on any frame below.
// Without scripts all frames stand below each other as they are.
for (const player of document.querySelectorAll(".player")) {
  const strip = player.parentElement.querySelector(".strip");
  const frames = [...strip.children];
  const stage = player.querySelector(".stage");
  const slider = player.querySelector("input");
  const play = player.querySelector(".play");
  const [before, next] = player.querySelectorAll(".step");
  let timer = null;

  function show(number) {
    const place = Math.min(frames.length - 1, Math.max(0, number));
    slider.value = place;
    const copy = frames[place].querySelector("figure").cloneNode(true);
    const caption = copy.querySelector("figcaption");
    const label = document.createElement("b");
    label.textContent = `${place + 1} / ${frames.length}`;
    caption.prepend(label);
    stage.replaceChildren(copy);
    slider.setAttribute("aria-valuetext", copy.querySelector("img").alt);
    frames.forEach((frame, other) => frame.classList.toggle("chosen", other === place));
    // On a phone the strip scrolls sideways; the page itself stays where it is.
    const [box, window] = [frames[place].getBoundingClientRect(), strip.getBoundingClientRect()];
    strip.scrollLeft += box.left + box.width / 2 - window.left - window.width / 2;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    stage.setAttribute("aria-live", "polite");
  }

  function start() {
    if (+slider.value === frames.length - 1) show(0);
    play.textContent = "Pause";
    stage.setAttribute("aria-live", "off");
    // About eight seconds for all of them.
    timer = setInterval(() => {
      show(+slider.value + 1);
      if (+slider.value === frames.length - 1) stop();
    }, Math.min(600, Math.max(100, 8000 / frames.length)));
  }

  function go(number) {
    stop();
    show(number);
  }

  slider.addEventListener("input", () => go(+slider.value));
  before.addEventListener("click", () => go(+slider.value - 1));
  next.addEventListener("click", () => go(+slider.value + 1));
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  frames.forEach((frame, place) => frame.addEventListener("click", () => go(place)));
  player.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && event.target !== slider) {
      event.preventDefault();
      go(+slider.value + step);
    }
  });
  player.hidden = false;
  document.documentElement.classList.add("scripted");
  show(0);
}
