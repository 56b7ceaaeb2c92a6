"""Settings of runs on several processes, which tests compare with runs on one."""

from runs import SMALL

# A mini-batch of the runs that are compared with `one` is one group, whose completions must go to different ranks.
SPLIT = ["kl=k3", "num_prompts_per_step=4", "num_completions_per_prompt=6", "num_gradient_steps=4"]
RUN = [*SMALL, "num_steps=3", "evaluation.every=3", "num_prompts_per_step=8", "data.num_train=40", "max_new_tokens=60"]

SHARDED = ["trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2"]
THREE = ["trainer.devices=3"]
ALONE = ["trainer=single", "trainer.accelerator=cpu"]
