"""Sessions: an answer is that of asking afresh, whatever was asked before; and what fails leaves them as they were."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import framefusion
from framefusion import FrameFusion, assets, session
from framefusion.asking.ask import AskError, ask
from framefusion.asking.frames import video_of_frames
from framefusion.asking.sessions import adding
from framefusion.asking.sessions.shown import cut
from framefusion.asking.video import VideoError
from tests.hf import models

QUESTIONS = ("what came after the red circle?", "where?", "which way does the blue square move?")
HUGE = ("qwen2_5_omni", "qwen3_omni")
"""Their processors enlarge every frame; they are Qwen2.5-VL and Qwen3-VL to a session."""
FAMILIES = [name for name in models.BUILDERS if name not in HUGE]
STAGES = FrameFusion(keep={0: 0.6, 2: 0.4})


def talk(loaded, settings=None, **options):
    options.setdefault("max_new_tokens", 6)
    return session(loaded.model, loaded.processor, settings, **options)


def afresh(loaded, media, question, settings=None):
    return ask(media, question, model=loaded.model, processor=loaded.processor, settings=settings, max_new_tokens=6)


def told(answer):
    return answer.text, answer.summary.tokens_per_layer, answer.summary.visual_tokens_before


@pytest.mark.parametrize("name", models.apart(FAMILIES))
def test_answers_are_those_of_asking_afresh(family, video, name):
    loaded = family(name)
    expected = [told(afresh(loaded, video, question)) for question in QUESTIONS[:2]]
    with talk(loaded) as s:
        s.add(video)
        assert [told(s.ask(question)) for question in QUESTIONS[:2]] == expected
        assert told(s.ask(QUESTIONS[0])) == expected[0]
        assert [reply.text for reply in s.ask_all(QUESTIONS[:2])] == [text for text, *_ in expected]


@pytest.mark.parametrize("settings", [FrameFusion(keep=1.0), FrameFusion(cost=0.2, relevance="none"), STAGES])
def test_whatever_the_stages_go_by(bundled, video, settings):
    expected = [told(afresh(bundled, video, question, settings)) for question in QUESTIONS]
    with talk(bundled, settings) as s:
        s.add(video)
        assert [told(s.ask(question)) for question in QUESTIONS] == expected


@pytest.mark.parametrize(
    "name", models.apart(name for name in FAMILIES if name not in ("minicpmv4_7", "molmo2", "smolvlm"))
)
def test_a_video_that_goes_on_is_the_whole_one(family, video, name):
    """With all tokens: the prompt in parts is the prompt, words between frames and times included."""
    loaded, everything = family(name), FrameFusion(keep=1.0)
    expected = afresh(loaded, video, QUESTIONS[0], everything)
    with talk(loaded, everything) as whole, talk(loaded, everything) as s:
        whole.add(video)
        for first, end in ((0, 4), (4, 5), (5, 8)):
            s.add(video.frames[first:end], timestamps=video.timestamps[first:end])
        assert told(s.ask(QUESTIONS[0])) == told(expected)
        assert s._held.prefix.ids.equal(whole._held.prefix.ids)


@pytest.mark.parametrize(
    ("name", "first", "spacing", "count"),
    [("internvl", 0.0, 1.0, 102), ("nemotron_h_omni", 0.0, 1.0, 102), ("smolvlm", 5990.0, 3.0, 8)],
)
def test_a_video_goes_on_where_its_labels_get_longer(family, video, name, first, spacing, count):
    """The hundredth frame and the hundredth minute have one more digit than those before."""
    loaded, everything = family(name), FrameFusion(keep=1.0)
    frames, times = video.frames[np.arange(count) % 8], first + spacing * np.arange(count)
    with talk(loaded, everything, chunk=4) as s:
        s.add(frames, timestamps=times)
        assert s.summary().items == (("frames", count),)
        if name != "smolvlm":
            # Its prompt says how many frames the first part has.
            expected = afresh(loaded, video_of_frames(frames, times), QUESTIONS[0], everything)
            assert told(s.ask(QUESTIONS[0])) == told(expected)


def test_smolvlm_says_how_many_frames_the_first_part_has(family, video):
    loaded = family("smolvlm")
    with talk(loaded, FrameFusion(keep=1.0)) as s:
        s.add(video.frames[:4])
        s.add(video.frames[4:])
        words = loaded.processor.tokenizer.decode(s._held.prefix.ids[0])
    assert "series of four frames" in words
    assert "Frame from 00:07" in words


def test_canvases_do_not_go_on(family, video):
    with talk(family("minicpmv4_7")) as s:
        s.add(video.frames[:4])
        before = told(s.ask("what?"))
        with pytest.raises(AskError, match="so a video cannot go on"):
            s.add(video.frames[4:])
        assert told(s.ask("what?")) == before
        s.add(video.frames[4:], new=True)
        assert s.summary().items == (("frames", 4), ("frames", 4))


def test_frames_that_fill_no_temporal_patch_are_seen_and_completed(family, video):
    loaded = family("qwen2_vl")
    with talk(loaded, FrameFusion(keep=1.0)) as s:
        s.add(video.frames[:4])
        s.add(video.frames[4:5])
        # The processor shows the last frame again.
        five = video_of_frames(video.frames[:5], video.timestamps[:5])
        assert told(s.ask("what?")) == told(afresh(loaded, five, "what?", FrameFusion(keep=1.0)))
        assert s.summary().frames == 5
        s.add(video.frames[5:6])
        six = video_of_frames(video.frames[:6], video.timestamps[:6])
        assert told(s.ask("what?")) == told(afresh(loaded, six, "what?", FrameFusion(keep=1.0)))
        assert s.summary().frames == 6


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3", "qwen3_5"])
def test_videos_and_photographs_in_turn(family, video, name):
    loaded, picture = family(name), Image.fromarray(video.frames[0])
    other = Image.fromarray(video.frames[5])
    with talk(loaded) as s:
        s.add(video)
        s.ask("and?")
        s.add(picture)
        s.add(other)
        expected = afresh(loaded, [video, picture, other], "what is alike?")
        assert told(s.ask("what is alike?")) == told(expected)
        assert s.summary().items == (("frames", 8), ("photograph", 1), ("photograph", 1))


def test_history_is_a_conversation(bundled, video):
    tokenizer = bundled.processor.tokenizer
    with talk(bundled) as s:
        s.add(video)
        first = s.ask(QUESTIONS[0])
        alone, behind = s.ask(QUESTIONS[1]), s.ask(QUESTIONS[1], history=True)
        turns = [text for pair in s.turns[:2] for text in pair]
        words = sum(len(tokenizer(text)["input_ids"]) for text in turns)
        assert behind.prefilled >= alone.prefilled + words
        assert s.turns[0] == (QUESTIONS[0], first.text)
    with talk(bundled, history=True) as s:
        s.add(video)
        assert s.ask(QUESTIONS[0]).text == first.text
        assert s.ask(QUESTIONS[1]).prefilled > alone.prefilled
        assert s.ask(QUESTIONS[1], history=False).prefilled == alone.prefilled


def test_forks_go_their_own_ways(bundled, video):
    with talk(bundled) as s:
        s.add(cut(video, 0, 4))
        before, other = told(s.ask("what?")), s.fork()
        other.add(video.frames[4:])
        assert other.summary().frames == 8
        assert told(other.ask("what?")) != before
        assert told(s.ask("what?")) == before
        assert s.summary().frames == 4


def test_long_videos_are_added_in_parts(bundled, video):
    seen = []
    with talk(bundled, FrameFusion(keep=1.0), chunk=3) as s:
        s.add(video, progress=seen.append)
        assert seen == [3, 6, 8]
        assert told(s.ask("what?")) == told(afresh(bundled, video, "what?", FrameFusion(keep=1.0)))


def test_text_comes_as_it_is_said(bundled, video):
    pieces = []
    with talk(bundled) as s:
        s.add(video)
        reply = s.ask("which way does it move?", say=pieces.append)
    assert "".join(pieces).strip() == reply.text
    assert reply.new_tokens > 0
    assert 0 < reply.seconds_to_first_token <= reply.seconds_total


def test_two_sessions_take_turns_in_threads(bundled, video):
    def run(settings, answers):
        with talk(bundled, settings) as s:
            s.add(video)
            answers += [s.ask(question).text for question in QUESTIONS]

    plans = (FrameFusion(), FrameFusion(cost=0.2, relevance="none"))
    expected: list[list[str]] = [[], []]
    for settings, answers in zip(plans, expected, strict=True):
        run(settings, answers)
    got: list[list[str]] = [[], []]
    threads = [threading.Thread(target=run, args=pair) for pair in zip(plans, got, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_what_is_interrupted_leaves_the_session(bundled, video):
    with talk(bundled) as s:
        s.add(video)
        before = told(s.ask("what?"))
        handle = bundled.model.get_decoder().layers[2].register_forward_pre_hook(interrupt)
        for call in (lambda: s.add(video.frames), lambda: s.ask("where?"), lambda: s.ask_all(["a?", "b?"])):
            with pytest.raises(KeyboardInterrupt):
                call()
        handle.remove()
        assert s.summary().frames == 8
        assert s.turns == (("what?", before[0]),)
        assert told(s.ask("what?")) == before


def interrupt(*_):
    raise KeyboardInterrupt


def test_memory_that_runs_out_says_what_would_fit(bundled, video, monkeypatch):
    original = adding.prompting.begun

    def begun(run, prefix, items, new, *more):
        if len(new) > 3:
            raise torch.OutOfMemoryError
        return original(run, prefix, items, new, *more)

    monkeypatch.setattr(adding.prompting, "begun", begun)
    with talk(bundled) as s:
        with pytest.raises(AskError, match="not enough memory for 8 frames at once, but for 2; open the session with"):
            s.add(video)
        assert s.summary().frames == 0
    with talk(bundled, chunk=2) as s:
        s.add(video)


def test_what_ran_out_of_memory_is_free_for_smaller_tries(bundled, video):
    """Else a part that fits would not, beside all that the failed one had made."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def layer(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        alive.append(sum(tensor() is not None for tensor in made))
        if hidden.shape[1] > 100:
            made.append(weakref.ref(hidden))
            raise torch.OutOfMemoryError

    handle = bundled.model.get_decoder().layers[2].register_forward_pre_hook(layer, with_kwargs=True)
    try:
        with talk(bundled, FrameFusion(keep=1.0)) as s, pytest.raises(AskError, match="8 frames at once, but for 1"):
            s.add(video)
    finally:
        handle.remove()
    assert len(made) == 3
    assert alive == [0] * 4


def test_one_session_may_be_shown_more_while_others_ask(bundled, video):
    """Nothing of either is lost."""
    with talk(bundled) as s:
        s.add(cut(video, 0, 2))

        def ask_all():
            for question in QUESTIONS:
                s.ask(question)

        def show():
            for frame in video.frames[2:5]:
                s.add(frame[None])

        threads = [threading.Thread(target=call) for call in (ask_all, show, show)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        summary = s.summary()
        assert (summary.frames, summary.questions, len(s.turns)) == (8, 3, 3)
        assert summary.times_asking is not None


def test_a_file_is_shown_as_many_frames_as_ask_shows(bundled, family):
    other = family("qwen2_vl")
    for loaded, count in ((bundled, 16), (other, 32)):
        with talk(loaded) as s:
            s.add(assets.DEMO_VIDEO)
            assert s.summary().frames == count
            s.add(assets.DEMO_VIDEO, frames=3)
            assert s.summary().frames == count + 3
    assert len(afresh(bundled, assets.DEMO_VIDEO, "where?").video) == 16


def test_bad_input_is_named(bundled, video, tmp_path):
    with pytest.raises(AskError, match="chunk must be a whole number"):
        talk(bundled, chunk=0)
    with pytest.raises(AskError, match="max_new_tokens must be"):
        talk(bundled, max_new_tokens=0)
    with pytest.raises(AskError, match="memory must be"):
        talk(bundled, memory="much")
    with pytest.raises(AskError, match="goes by the question before layer 0"):
        talk(bundled, FrameFusion(keep={0: 0.3}, relevance="similarity"))
    s = talk(bundled)
    with pytest.raises(AskError, match="nothing was shown yet"):
        s.ask("what?")
    with pytest.raises(VideoError):
        s.add(tmp_path / "none.mp4")
    with pytest.raises(AskError, match="got int"):
        s.add(7)
    with pytest.raises(AskError, match="one size"):
        s.add([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)])
    with pytest.raises(AskError, match="of uint8"):
        s.add(np.zeros((2, 32, 48, 3)))
    with pytest.raises(AskError, match="timestamps must be 2 seconds, got"):
        s.add(video.frames[:2], timestamps=["soon", "later"])
    with pytest.raises(TypeError, match="model must be a loaded Hugging Face model, got int"):
        session(7, bundled.processor)
    with pytest.raises(AskError, match="timestamps must be 2 seconds that ascend"):
        s.add(video.frames[:2], timestamps=[1.0, 1.0])
    for given in ({"fps": 2.0}, {"frames": 2}):
        with pytest.raises(AskError, match="frames and fps are for files that are read here"):
            s.add(video.frames, **given)
    with pytest.raises(AskError, match="are for frames"):
        s.add(video, timestamps=[1.0])
    s.add(video.frames)
    with pytest.raises(AskError, match=r"timestamps begin at 3 s, but the video has gone on to 7 s"):
        s.add(video.frames[:1], timestamps=[3.0])
    with pytest.raises(AskError, match="question must be a text"):
        s.ask(" ")
    with pytest.raises(AskError, match="questions must be a list"):
        s.ask_all("what?")
    with pytest.raises(AskError, match="max_new_tokens"):
        s.ask("what?", max_new_tokens=-1)
    with framefusion.attach(bundled.model), pytest.raises(AskError, match="attached already"):
        s.ask("what?")
    assert s.summary().frames == 8
    assert s.summary().questions == 0
    s.close()
    assert s.summary().items == ()


def test_frames_of_another_size_begin_another_video(bundled, video):
    with talk(bundled) as s:
        s.add(video.frames[:2])
        s.add(np.zeros((2, 40, 48, 3), np.uint8))
        assert s.summary().items == (("frames", 2), ("frames", 2))


def test_the_summary_adds_up(bundled, video):
    with talk(bundled, FrameFusion(cost=0.5)) as s:
        s.add(video)
        s.add(Image.fromarray(video.frames[0]))
        s.ask_all(QUESTIONS)
        summary = s.summary()
        assert summary.frames == 8
        assert summary.visual_tokens > summary.held > 0
        assert (summary.questions, summary.forgotten) == (3, 0)
        assert summary.nbytes > 0
        assert summary.seconds_adding > 0
        assert "frames (8 frames), photograph: " in str(summary)
        copy = replace(summary, forgotten=4)
        assert "4 forgotten" in str(copy)


def test_caches_of_another_kind_are_refused_by_name(bundled, monkeypatch):
    monkeypatch.setattr(bundled.model.generation_config, "cache_implementation", "static")
    with pytest.raises(AskError, match=r"every cache of the kind 'static', but a session .* only a DynamicCache can"):
        talk(bundled)


def test_a_model_that_is_configured_to_cache_nothing_answers_the_same(bundled, video, monkeypatch):
    """As checkpoints are left by training."""
    with talk(bundled) as s:
        s.add(video)
        expected = [s.ask(question).text for question in QUESTIONS]
        monkeypatch.setattr(bundled.model.generation_config, "use_cache", False)
        assert [s.ask(question).text for question in QUESTIONS] == expected
        assert [reply.text for reply in s.ask_all(iter(QUESTIONS))] == expected
