// SPDX-License-Identifier: BSD-2-Clause
// A serial flash that knows one command, fast read with dual output.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class FlashModel {
public:
    static constexpr unsigned SIZE = 1 << 24, COMMAND = 0x3b, HEAD = 8 + 24 + 8, REST = 5;
    std::vector<uint8_t> memory = std::vector<uint8_t>(SIZE, 0xff);
    uint64_t commands = 0;

    // One cycle of the lines; returns the level of both data lines. They are wrong for a cycle after
    // the clock has fallen.
    unsigned cycle(bool cs, bool sck, bool out, bool oe) {
        unsigned lines = lines_;
        if (!cs) {
            if (sck) throw Fault("the flash is clocked while it is not selected");
            if (cs_) rest_ = 0;
            rest_++;
            clocks_ = 0;
        } else {
            if (!cs_ && rest_ < REST) throw Fault("the flash has no rest between two commands");
            if (clocks_ >= HEAD && oe) throw Fault("board and flash drive one line");
            if (sck && !sck_ && clocks_ < HEAD) {
                if (!oe && clocks_ < 32) throw Fault("nobody drives the line to the flash");
                head_ = head_ << 1 | (out ? 1 : 0);
                clocks_++;
                if (clocks_ == 8 && (head_ & 0xff) != COMMAND)
                    throw Fault("the flash has no command " + std::to_string(head_ & 0xff));
                if (clocks_ == 32) at_ = (head_ & 0xffffff) * 4, commands++;
            } else if (!sck && sck_ && clocks_ == HEAD) {
                lines_ = memory[at_ / 4 % SIZE] >> (6 - 2 * (at_ % 4)) & 3;
                at_++;
                lines = ~lines_ & 3;
            }
        }
        cs_ = cs;
        sck_ = sck;
        return lines;
    }

private:
    bool cs_ = false, sck_ = false;
    unsigned clocks_ = 0, rest_ = REST, lines_ = 3;
    uint64_t head_ = 0, at_ = 0;
};
