"""Processors of prompts with pictures, without what they have for films, which takes torchvision."""

from typing import Any

from transformers import ProcessorMixin, Qwen2VLProcessor


class PictureProcessor(Qwen2VLProcessor):
    """Qwen2-VL's, for pictures alone; it loads from the same files."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **rest: Any
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # Past the class between, which asks for a processor of films.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
