// SPDX-License-Identifier: BSD-2-Clause
// Runs a board with a serial line, and is the host's end of the line and the flash.
//
//   serial_board FLASH ADDRESS BIT      file that is in the flash, its address, cycles of a bit
//
// Commands on the input, each a line:
//   send N                 N bytes follow; sends them
//   receive N CYCLES       lets time pass until N bytes have come, or for so many cycles, and writes
//                          "bytes K TIME" and K bytes; TIME are the cycles from the start
//   wait CYCLES            lets time pass
//   bit CYCLES             cycles of a bit from here on, not a whole number perhaps
// A fault of the board ends the run: "fault " and a sentence.

#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "Vtop.h"
#include "flash.h"
#include "uart.h"
#include "verilated.h"

namespace {

class Bench {
public:
    Bench(const std::string& file, unsigned address, double bit) : top_(&context_) {
        std::ifstream input(file, std::ios::binary);
        if (!input) throw Fault("file " + file + " cannot be read");
        const std::vector<char> bytes((std::istreambuf_iterator<char>(input)), {});
        if (address + bytes.size() > flash_.memory.size()) throw Fault("the flash is too small");
        std::copy(bytes.begin(), bytes.end(), flash_.memory.begin() + address);
        uart_.bit = bit;
        top_.rx = 1;
        top_.rst = 1;
        for (int i = 0; i < 8; i++) cycle();
        top_.rst = 0;
    }
    ~Bench() { top_.final(); }

    void run(const std::string& line) {
        std::istringstream words(line);
        std::string command;
        words >> command;
        if (command == "send") {
            size_t count = 0;
            words >> count;
            std::string bytes(count, 0);
            std::cin.read(bytes.data(), count);
            uart_.to_board.insert(uart_.to_board.end(), bytes.begin(), bytes.end());
            while (uart_.sending()) cycle();
        } else if (command == "receive") {
            size_t count = 0;
            uint64_t limit = 0;
            words >> count >> limit;
            std::deque<uint8_t>& come = uart_.from_board;
            for (uint64_t i = 0; i < limit && come.size() < count; i++) cycle();
            if (uart_.faults) throw Fault("a byte of the board has no stop bit");
            count = std::min(count, come.size());
            std::cout << "bytes " << count << " " << time_ << "\n";
            std::copy(come.begin(), come.begin() + count, std::ostreambuf_iterator<char>(std::cout));
            std::cout << std::flush;
            come.erase(come.begin(), come.begin() + count);
        } else if (command == "wait") {
            uint64_t cycles = 0;
            words >> cycles;
            for (uint64_t i = 0; i < cycles; i++) cycle();
        } else if (command == "bit") {
            words >> uart_.bit;
        } else {
            throw Fault("no command is called " + command);
        }
    }

private:
    void cycle() {
        top_.clk = 0;
        top_.eval();
        top_.clk = 1;
        top_.eval();
        time_++;
        uart_.sample(top_.tx);
        top_.rx = uart_.drive();
        top_.flash_in = flash_.cycle(top_.flash_cs, top_.flash_sck, top_.flash_out, top_.flash_oe);
    }

    VerilatedContext context_;
    Vtop top_;
    UartModel uart_;
    FlashModel flash_;
    uint64_t time_ = 0;
};

}  // namespace

int main(int count, char** words) {
    try {
        if (count != 4) throw Fault("three arguments are needed");
        Bench bench(words[1], std::stoul(words[2]), std::stod(words[3]));
        for (std::string line; std::getline(std::cin, line);) bench.run(line);
    } catch (const std::exception& fault) {
        std::cout << "fault " << fault.what() << std::endl;
        return 1;
    }
}
