"""What LM2 is compared with: models that the same trainer trains and the same questions ask.

A contender is a module with `param_shapes(cfg)`, `init_params(cfg, seed)`, the pair `story_forward`, `story_backward`,
and `answer`, with the signatures that they have in `tinylm2.model` and `tinylm2.generate`. Plain Llama on its own
segment and the write as printed are settings of LM2 itself: Config(memory="none") and Config(memory="printed").
"""
