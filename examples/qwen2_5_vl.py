"""Qwen2.5-VL as on its model card, with a fifth of the visual tokens.

    pip install framefusion qwen-vl-utils accelerate
    python examples/qwen2_5_vl.py street.mp4 "What happens in this video?"

But for the lines with ``framefusion`` and one that transformers 5 wants, it is the card's. ``--model`` takes any
Qwen2.5-VL, fine-tuned ones too.
"""

import argparse

import torch
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

import framefusion

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("video")
parser.add_argument("question", nargs="?", default="Describe this video.")
parser.add_argument("--model", default="Qwen/Qwen2.5-VL-7B-Instruct")
parser.add_argument("--fps", type=float, default=1.0, help="frames a second that the model sees")
parser.add_argument("--max-pixels", type=int, default=360 * 420, help="of each frame")
parser.add_argument("--cost", type=float, default=0.2, help="share of the visual tokens, mean over the layers")
args = parser.parse_args()

model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.model, dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained(args.model)

video = {"type": "video", "video": args.video, "max_pixels": args.max_pixels, "fps": args.fps}
messages = [{"role": "user", "content": [video, {"type": "text", "text": args.question}]}]

text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
image_inputs, video_inputs, video_kwargs = process_vision_info(messages, return_video_kwargs=True)
video_kwargs["fps"] = video_kwargs["fps"][0]  # transformers 5 takes one number where the card's version took a list
inputs = processor(
    text=[text], images=image_inputs, videos=video_inputs, padding=True, return_tensors="pt", **video_kwargs
).to(model.device)

with framefusion.attach(model, framefusion.FrameFusion(cost=args.cost)) as run, torch.inference_mode():
    generated_ids = model.generate(**inputs, max_new_tokens=128)
generated_ids_trimmed = [
    out_ids[len(in_ids) :] for in_ids, out_ids in zip(inputs.input_ids, generated_ids, strict=True)
]
print(processor.batch_decode(generated_ids_trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0])

kept = run.summary()
print(
    f"{kept.visual_tokens_after} of {kept.visual_tokens_before} visual tokens kept, "
    f"{kept.mean_share:.0%} on average over the layers"
)
