import numpy as np
import pytest
import torch
from batches import BatchPlan, make_batch, to_pixels
from checkpoint import build_model, build_processor, prompt_text
from objective import answer_logits
from packing import IGNORE, PromptIds, pack_pairs, packed_mask
from scenes import render, sample_video

PAIRS = [("what came after the red circle?", "green star"), ("what color is the heart?", "blue")]


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    model = build_model(processor.tokenizer).eval()
    with torch.no_grad():
        # The untrained output is nearly the same for every input; make differences visible.
        for parameter in model.lm_head.parameters():
            parameter.mul_(20)
    return model


@pytest.fixture(scope="module")
def video():
    return render(sample_video(np.random.default_rng(0), frames=4, scenes=4))


def _packed(model, processor, video, pairs, kept=None):
    prompts = PromptIds(processor.tokenizer)
    batch = make_batch(0, BatchPlan(1, 4, None, 1, 0.0, 0.0), prompts, processor.tokenizer.pad_token_id, 0)
    text = pack_pairs(prompts, [pairs], processor.tokenizer.pad_token_id)
    fields = {"pixels": to_pixels(video.frames)[None], "text": text}
    batch = batch.__class__(**(vars(batch) | fields | ({} if kept is None else {"kept": kept})))
    with torch.inference_mode():
        return answer_logits(model, prompts, batch)[0][0], text


def test_packed_pairs_compute_what_the_ordinary_path_computes(model, processor, video):
    packed, text = _packed(model, processor, video, PAIRS)
    for number, (question, answer) in enumerate(PAIRS, start=1):
        prompt = f"{prompt_text(processor, question)} {answer}<|im_end|>"
        inputs = processor(text=[prompt], videos=[video.frames], return_tensors="pt")
        with torch.inference_mode():
            alone = model(**inputs).logits[0]
        mine = packed[text.pair[0] == number]
        torch.testing.assert_close(mine, alone[-len(mine) :], atol=2e-4, rtol=0)


def test_pairs_do_not_leak_into_each_other(model, processor, video):
    before, text = _packed(model, processor, video, [PAIRS[0], PAIRS[1]])
    changed, _ = _packed(model, processor, video, [(PAIRS[0][0], "white heart"), PAIRS[1]])
    second = text.pair[0] == 2
    assert torch.equal(before[second], changed[second])
    first = text.pair[0] == 1
    assert not torch.equal(before[first], changed[first])


def test_without_the_pair_mask_they_would_leak(model, processor, video, monkeypatch):
    def causal_only(pair):
        return packed_mask(torch.zeros_like(pair))

    monkeypatch.setattr("objective.packed_mask", causal_only)
    before, text = _packed(model, processor, video, [PAIRS[0], PAIRS[1]])
    changed, _ = _packed(model, processor, video, [(PAIRS[0][0], "white heart"), PAIRS[1]])
    second = text.pair[0] == 2
    assert not torch.allclose(before[second], changed[second], atol=1e-6)


def test_kept_tokens_stay_at_their_positions(model, processor, video):
    """Dropping a token equals hiding it: the others must not move up."""
    whole, _ = _packed(model, processor, video, PAIRS)
    every = torch.arange(4 * 64)[None]
    same, _ = _packed(model, processor, video, PAIRS, kept=every)
    fewer, _ = _packed(model, processor, video, PAIRS, kept=every[:, ::3])
    assert torch.equal(whole, same)
    assert not torch.allclose(whole, fewer, atol=1e-6)


def test_labels_ask_for_the_answer_and_its_end_only(processor):
    text = pack_pairs(PromptIds(processor.tokenizer), [PAIRS, PAIRS[:1]], pad_id=0)
    tokens = processor.tokenizer.convert_ids_to_tokens
    asked = [tokens(row[row != IGNORE].tolist()) for row in text.labels]
    assert asked == [["green", "star", "<|im_end|>", "blue", "<|im_end|>"], ["green", "star", "<|im_end|>"]]
    # Each label is the next token of its own pair.
    for row in range(2):
        for i in (text.labels[row] != IGNORE).nonzero().flatten().tolist():
            assert text.labels[row, i] == text.ids[row, i + 1]
            assert text.pair[row, i] == text.pair[row, i + 1]
            assert text.offset[row, i] + 1 == text.offset[row, i + 1]


def test_prefix_and_pair_are_the_processor_s_ids(processor, video):
    prompts = PromptIds(processor.tokenizer)
    question, answer = PAIRS[0]
    inputs = processor(text=[prompt_text(processor, question)], videos=[video.frames], return_tensors="pt")
    prompt, reply = prompts.pair(question, answer)
    assert inputs["input_ids"][0].tolist() == prompts.prefix(4 * 64) + prompt
    assert processor.tokenizer.decode(reply, skip_special_tokens=True) == answer


def test_training_pixels_are_the_processor_s(processor, video):
    inputs = processor.video_processor(videos=[video.frames], return_tensors="pt")
    torch.testing.assert_close(to_pixels(video.frames), inputs["pixel_values_videos"][0], atol=1e-6, rtol=0)
