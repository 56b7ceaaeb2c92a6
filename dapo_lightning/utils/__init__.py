"""Small tools without any knowledge of reinforcement learning."""
