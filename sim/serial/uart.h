// SPDX-License-Identifier: BSD-2-Clause
// The host's end of a serial line: 8 data bits, no parity, one stop bit, at a rate of its own.
#pragma once

#include <cstdint>
#include <deque>

class UartModel {
public:
    // Cycles of a bit, which need not be a whole number.
    double bit = 0;
    std::deque<uint8_t> to_board, from_board;
    uint64_t faults = 0;  // bytes from the board without a stop bit

    bool sending() const { return !to_board.empty() || sent_ < 10; }

    // Level of the line to the board in the next cycle.
    bool drive() {
        if (sent_ >= 10 && !to_board.empty()) {
            frame_ = 0x200u | to_board.front() << 1;
            to_board.pop_front();
            sent_ = 0;
            left_ += bit;
        } else if (sent_ >= 10) {
            left_ = 0;
            return true;
        }
        const bool level = frame_ >> sent_ & 1;
        if ((left_ -= 1) <= 0 && ++sent_ < 10) left_ += bit;
        return level;
    }

    // One cycle of the line from the board.
    void sample(bool level) {
        if (bits_ == 0) {
            if (!level) {
                bits_ = 9;
                wait_ = 1.5 * bit;
            }
        } else if ((wait_ -= 1) <= 0) {
            wait_ += bit;
            if (--bits_ == 0) {
                if (level) from_board.push_back(shift_);
                else faults++;
            } else {
                shift_ = shift_ >> 1 | (level ? 0x80 : 0);
            }
        }
    }

private:
    unsigned frame_ = 0, sent_ = 10, bits_ = 0;
    double left_ = 0, wait_ = 0;
    uint8_t shift_ = 0;
};
