"""The turns of rows that are decoded together: what each row writes and reads, token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dapo_lightning.rollout import Partner
from dapo_lightning.types import Completion


class Conversing:
    """Records the B rows, and makes those whose turn has ended read the replies of the partner.

    Without a partner, every row has one turn. Each row takes its next random number whenever it writes a token, so that
    its tokens do not depend on when the other rows end their turns.

    Args:
        noise_BT: one number in [0, 1) for each token that the policy may write in all turns.
        ends: the end tokens.
        stop: see `Generation`.
        first_row: the number of row 0 for the partner.
    """

    def __init__(
        self,
        noise_BT: Tensor,
        ends: Tensor,
        stop: Callable[[Tensor], Tensor] | None,
        partner: Partner | None,
        first_row: int = 0,
    ):
        (num_rows, self._budget), device = noise_BT.shape, noise_BT.device
        self._noise_BT, self._ends, self._stop, self._partner, self._first_row = (
            noise_BT,
            ends,
            stop,
            partner,
            first_row,
        )
        longest_message = partner.max_message_tokens if partner else 1
        length = self._budget + (partner.max_messages * longest_message if partner else 0)
        zeros_B, zeros_BT = noise_BT.new_zeros(num_rows, dtype=torch.long), noise_BT.new_zeros(num_rows, length)
        self._tokens_BT, self._written_BT = zeros_BT.long(), zeros_BT.bool()
        self._logps_BT, self._entropies_BT = zeros_BT, zeros_BT.clone()
        self._num_tokens_B, self._num_written_B = zeros_B, zeros_B.clone()
        self._turn_start_B, self._turn_left_B = zeros_B.clone(), zeros_B.clone()
        self._turn_left_B += min(self._budget, partner.max_turn_tokens) if partner else self._budget
        self._message_BM = torch.zeros(num_rows, longest_message, dtype=torch.long, device=device)
        self._num_read_B, self._message_length_B = zeros_B.clone(), zeros_B.clone()
        self._truncated_B = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def noise(self, rows_B: Tensor) -> Tensor:
        """The random numbers with which these rows sample their next tokens, [B]."""
        return self._noise_BT[rows_B, self._num_written_B[rows_B].clamp(max=self._budget - 1)]

    def step(
        self, rows_B: Tensor, alive_B: Tensor, sampled_B: Tensor, logps_B: Tensor, entropies_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Records one token for each row that is alive. Returns the tokens to feed, and which rows are still alive.

        Args:
            sampled_B, logps_B, entropies_B: what `sample_tokens` returned; rows that read a message ignore it.
        """
        tokens_B, writes_B = self._fed(rows_B, sampled_B)
        alive = alive_B.nonzero().squeeze(1)
        rows, writes = rows_B[alive], writes_B[alive]
        column = self._num_tokens_B[rows]
        self._tokens_BT[rows, column] = tokens_B[alive]
        self._written_BT[rows, column] = writes
        self._logps_BT[rows, column] = logps_B[alive].where(writes, 0.0)
        self._entropies_BT[rows, column] = entropies_B[alive].where(writes, 0.0)
        self._num_tokens_B[rows] += 1
        self._num_written_B[rows] += writes
        self._turn_left_B[rows] -= writes.long()

        goes_on_B = alive_B & logps_B.isfinite()  # the worker reports values that are not finite
        ended_B = goes_on_B & writes_B & self._is_end(rows_B, tokens_B)
        is_spent_B = (self._num_written_B[rows_B] == self._budget) | (self._turn_left_B[rows_B] == 0)
        cut_B = goes_on_B & writes_B & ~ended_B & is_spent_B
        self._truncated_B[rows_B] |= cut_B
        return tokens_B, (goes_on_B & ~ended_B & ~cut_B) | self._answered(rows_B, ended_B)

    def _fed(self, rows_B: Tensor, sampled_B: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of the message for rows that read one, and the sampled token for the others, which write."""
        if self._partner is None:
            return sampled_B, torch.ones_like(sampled_B, dtype=torch.bool)
        num_read_B = self._num_read_B[rows_B]
        reads_B = num_read_B < self._message_length_B[rows_B]
        self._num_read_B[rows_B] += reads_B
        next_B = self._message_BM[rows_B, num_read_B.clamp(max=self._message_BM.shape[1] - 1)]
        return next_B.where(reads_B, sampled_B), ~reads_B

    def _is_end(self, rows_B: Tensor, tokens_B: Tensor) -> Tensor:
        is_end_B = torch.isin(tokens_B, self._ends)
        if self._stop is None:
            return is_end_B
        # Rows that are alive have as many tokens as each other. Tokens before the turn must not complete a stop text.
        length = int(self._num_tokens_B.max())
        start_B1 = self._turn_start_B[rows_B][:, None]
        is_before_BT = torch.arange(length, device=rows_B.device) < start_B1
        return is_end_B | self._stop(self._tokens_BT[rows_B, :length].masked_fill(is_before_BT, int(self._ends[0])))

    def _answered(self, rows_B: Tensor, ended_B: Tensor) -> Tensor:
        """Asks the partner for its replies to the turns that have ended; which rows go on with a message, [B] bool."""
        goes_on_B = torch.zeros_like(ended_B)
        if self._partner is None or not ended_B.any():
            return goes_on_B
        rows = rows_B[ended_B].tolist()
        turns = [self._tokens_BT[row, self._turn_start_B[row] : self._num_tokens_B[row]].cpu() for row in rows]
        replies = self._partner.reply([self._first_row + row for row in rows], turns)
        for row, message in zip(rows, replies, strict=True):
            if message is not None:
                self._message_BM[row, : len(message)] = torch.tensor(message, device=rows_B.device)
                self._num_read_B[row], self._message_length_B[row] = 0, len(message)
                self._turn_start_B[row] = self._num_tokens_B[row] + len(message)
                self._turn_left_B[row] = self._partner.max_turn_tokens
        goes_on_B[ended_B] = torch.tensor([message is not None for message in replies], device=rows_B.device)
        return goes_on_B

    def completions(self) -> list[Completion]:
        """The recorded rows, on the CPU."""
        tokens_BT, written_BT = self._tokens_BT.cpu(), self._written_BT.cpu()
        logps_BT, entropies_BT = self._logps_BT.cpu(), self._entropies_BT.cpu()
        ends = zip(self._num_tokens_B.tolist(), self._truncated_B.tolist(), strict=True)
        return [
            Completion(
                tokens_BT[row, :n].clone(),
                logps_BT[row, :n].clone(),
                entropies_BT[row, :n].clone(),
                truncated,
                None if self._partner is None else written_BT[row, :n].clone(),
            )
            for row, (n, truncated) in enumerate(ends)
        ]
