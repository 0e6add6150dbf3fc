// SPDX-License-Identifier: BSD-2-Clause
// Runs a command file on the design: one command a line, answers and progress on the output.
//
//   memory BASE SIZE ro|rw         add a window of zeros
//   load FILE ADDRESS              copy a file into memory
//   fill ADDRESS SIZE BYTE         set bytes of memory
//   dump FILE ADDRESS SIZE         copy memory into a file
//   bandwidth BYTES                bytes a cycle that all ports share
//   latency CYCLES                 from address to first data
//   stalls SEED                    random stalls on every channel, 0 for none
//   jitter CYCLES                  with stalls, up to so many more cycles of latency
//   outstanding BURSTS             accepted before the first is answered, of reads and of writes
//   outside fault|decerr           what accesses outside of all windows are
//   allow [BASE SIZE ro|rw] ...    fault if the core reads or writes elsewhere: registers that hold
//                                  the addresses and sizes; without any it may go anywhere
//   error ADDRESS okay|slverr|decerr|silent   answer accesses to this byte with an error, or not
//   reset CYCLES                   pull ap_rst_n
//   write OFFSET VALUE [STROBE]    write a register, or some of its bytes
//   read OFFSET NAME               read a register: "value NAME VALUE"
//   both OFFSET VALUE OFFSET NAME  write a register and read one at the same time
//   echo OFFSET                    write to a register what it reads
//   poll OFFSET MASK VALUE CYCLES  read a register until its bits in MASK are VALUE, fault after so
//                                  many cycles
//   interrupt CYCLES               wait for the interrupt, fault after so many cycles
//   await CYCLES NAME              wait for the interrupt: "value NAME 1", 0 if it did not come
//   wait CYCLES                    let time pass
//   quiet                          fault if any port has an access under way
//   clear                          start counting cycles, bytes and accesses at zero
//   count [PREFIX]                 "value PREFIXcycles ...", ... bytes_read, bytes_written, and
//                                  host_accesses: of registers, and of memory by load, fill, dump
//   trace FOLDER [timed]           record the streams, those that are timed only if asked for
//   trace off                      end it
//   mark NAME                      "mark NAME", once all before it is done

#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>

#include "axi.h"
#include "design.h"
#include "lite.h"
#include "memory.h"
#include "trace.h"

namespace {

class Bench {
public:
    explicit Bench(const char* name) : top_(&context_, name), pins_(bind(top_)), lite_(pins_.lite), trace_(pins_.streams) {
        for (const AxiPins& pins : pins_.axi) ports_.emplace_back(pins, memory_);
        reset(8);
    }
    ~Bench() { top_.final(); }

    void run(const std::string& line) {
        std::istringstream words(line);
        std::string command;
        words >> command;
        if (command == "memory") {
            const uint64_t base = number(words), size = number(words);
            memory_.window(base, size, word(words) == "rw");
        } else if (command == "load") {
            const std::string file = word(words);
            memory_.load(file, number(words));
            host_++;
        } else if (command == "fill") {
            const uint64_t address = number(words), size = number(words);
            memory_.fill(address, size, number(words));
            host_++;
        } else if (command == "dump") {
            const std::string file = word(words);
            const uint64_t address = number(words);
            memory_.dump(file, address, number(words));
            host_++;
        } else if (command == "bandwidth") {
            memory_.bytes_per_cycle = std::stod(word(words));
        } else if (command == "latency") {
            memory_.latency = number(words);
        } else if (command == "stalls") {
            const uint64_t seed = number(words);
            for (AxiPort& port : ports_) port.seed(seed);
            lite_.seed(seed);
        } else if (command == "jitter") {
            memory_.jitter = std::max<uint64_t>(1, number(words));
        } else if (command == "outstanding") {
            memory_.outstanding = number(words);
        } else if (command == "outside") {
            memory_.answers_outside = word(words) == "decerr";
        } else if (command == "allow") {
            allow(words);
        } else if (command == "error") {
            const uint64_t address = number(words);
            const std::string kind = word(words);
            memory_.inject(address, kind == "slverr"   ? SLVERR
                                    : kind == "decerr" ? DECERR
                                    : kind == "silent" ? SILENT
                                                       : OKAY);
        } else if (command == "reset") {
            reset(number(words));
        } else if (command == "write") {
            const uint32_t offset = number(words);
            const uint32_t value = number(words);
            const bool whole = (words >> std::ws).peek() == EOF;
            lite_.start_write(offset, value, whole ? 15 : number(words));
            access("write", offset);
        } else if (command == "read") {
            const uint32_t offset = number(words);
            lite_.start_read(offset);
            access("read", offset);
            answer(word(words), lite_.value());
        } else if (command == "both") {
            const uint32_t written = number(words);
            lite_.start_write(written, number(words));
            const uint32_t offset = number(words);
            lite_.start_read(offset);
            access("write and read", offset);
            answer(word(words), lite_.value());
        } else if (command == "echo") {
            const uint32_t offset = number(words);
            lite_.start_write(offset, read(offset));
            access("write", offset);
        } else if (command == "poll") {
            poll(words);
        } else if (command == "interrupt") {
            interrupt(number(words));
        } else if (command == "await") {
            for (uint64_t left = number(words); left && !pins_.interrupt; left--) step();
            answer(word(words), bool(pins_.interrupt));
        } else if (command == "wait") {
            for (uint64_t left = number(words); left; left--) step();
        } else if (command == "quiet") {
            for (size_t i = 0; i < ports_.size(); i++)
                if (!ports_[i].quiet())
                    throw Fault("m_axi_gmem" + std::to_string(i) + " has an access under way");
        } else if (command == "clear") {
            start_ = cycle_;
            memory_.bytes_read = memory_.bytes_written = 0;
            host_ = lite_.accesses = 0;
        } else if (command == "count") {
            std::string prefix;
            words >> prefix;
            answer(prefix + "cycles", cycle_ - start_);
            answer(prefix + "bytes_read", memory_.bytes_read);
            answer(prefix + "bytes_written", memory_.bytes_written);
            answer(prefix + "host_accesses", host_ + lite_.accesses);
        } else if (command == "trace") {
            const std::string folder = word(words);
            if (folder == "off")
                trace_.close();
            else
                trace_.open(folder, (words >> std::ws).peek() != EOF && word(words) == "timed");
        } else if (command == "mark") {
            std::cout << "mark " << word(words) << std::endl;
        } else if (!command.empty()) {
            throw Fault("there is no command " + command);
        }
    }

private:
    static std::string word(std::istringstream& words) {
        std::string text;
        if (!(words >> text)) throw Fault("a word is missing in: " + words.str());
        return text;
    }
    static uint64_t number(std::istringstream& words) { return std::stoull(word(words), nullptr, 0); }
    static void answer(const std::string& name, uint64_t value) {
        std::cout << "value " << name << ' ' << value << std::endl;
    }

    // One clock cycle. Outputs are taken when all is settled, before the rising edge; inputs
    // change after it.
    void step() {
        for (AxiPort& port : ports_) port.sample(cycle_);
        lite_.sample();
        trace_.sample(cycle_);
        pins_.clock.set(1);
        top_.eval();
        cycle_++;
        pins_.clock.set(0);
        // All ports draw on one budget: a different one is first in every cycle.
        memory_.tick(pins_.axi.empty() ? 0 : pins_.axi[0].bytes);
        for (size_t i = 0; i < ports_.size(); i++) ports_[(cycle_ + i) % ports_.size()].drive(cycle_);
        lite_.drive();
        top_.eval();
        if (cycle_ % 512 == 0) progress();
    }

    void progress() {
        const auto now = std::chrono::steady_clock::now();
        if (now - reported_ < std::chrono::milliseconds(200)) return;
        reported_ = now;
        std::cout << "progress " << cycle_ - start_ << std::endl;
    }

    void reset(uint64_t cycles) {
        lite_.reset();
        for (AxiPort& port : ports_) port.reset();
        pins_.reset_n.set(0);
        for (uint64_t i = 0; i < 2 * cycles; i++) {
            pins_.clock.set(i & 1);
            top_.eval();
        }
        for (AxiPort& port : ports_) port.check_reset();
        pins_.clock.set(0);
        pins_.reset_n.set(1);
        top_.eval();
    }

    void access(const char* what, uint32_t offset) {
        lite_.drive();
        top_.eval();
        for (int i = 0; lite_.busy(); i++) {
            if (i == 10000)
                throw Fault(std::string("the ") + what + " of register " + hex(offset) +
                            " was not answered in 10000 cycles");
            step();
        }
        if (lite_.response() != OKAY)
            throw Fault(std::string("the ") + what + " of register " + hex(offset) + " was answered with " +
                        (lite_.response() == DECERR ? "DECERR" : "SLVERR"));
    }

    uint32_t read(uint32_t offset) {
        lite_.start_read(offset);
        access("read", offset);
        return lite_.value();
    }

    // Ask the registers where the core may go: arguments of a run do not change while it goes on.
    void allow(std::istringstream& words) {
        std::vector<Memory::Range> ranges;
        while ((words >> std::ws).peek() != EOF) {
            const uint32_t base = number(words), size = number(words);
            const uint64_t low = read(base), high = read(base + 4);
            const uint64_t bytes = read(size);
            ranges.push_back({high << 32 | low, bytes, word(words) == "rw"});
        }
        if (ranges.empty())
            memory_.allow_all();
        else
            memory_.allow(ranges);
    }

    void poll(std::istringstream& words) {
        const uint32_t offset = number(words), mask = number(words), value = number(words);
        const uint64_t limit = number(words), end = cycle_ + limit;
        for (uint32_t now; ((now = read(offset)) & mask) != value;)
            if (cycle_ >= end)
                throw Fault("register " + hex(offset) + " is " + hex(now) + " after " +
                            std::to_string(limit) + " cycles, its bits " + hex(mask) + " must be " +
                            hex(value));
    }

    void interrupt(uint64_t cycles) {
        for (uint64_t left = cycles; !pins_.interrupt; left--) {
            if (left == 0) throw Fault("no interrupt in " + std::to_string(cycles) + " cycles");
            step();
        }
    }

    VerilatedContext context_;
    Top top_;
    Pins pins_;
    Memory memory_;
    LiteMaster lite_;
    Trace trace_;
    std::vector<AxiPort> ports_;
    uint64_t cycle_ = 0, start_ = 0, host_ = 0;
    std::chrono::steady_clock::time_point reported_;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: " << argv[0] << " COMMANDS\n";
        return 1;
    }
    try {
        std::ifstream commands(argv[1]);
        if (!commands) throw Fault(std::string("cannot read ") + argv[1]);
        Bench bench("top");
        for (std::string line; std::getline(commands, line);) bench.run(line);
    } catch (const Fault& fault) {
        std::cout << "fault " << fault.what() << std::endl;
        return 2;
    }
    return 0;
}
