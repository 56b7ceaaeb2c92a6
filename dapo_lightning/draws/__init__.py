"""From prompts to graded groups: which prompts a step draws, and which groups it keeps."""
