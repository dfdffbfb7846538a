// Instructions that all lanes of a warp execute together.
#pragma once
#include "memory.h"

namespace emu {

unsigned const LANES = 32;

// What one lane brings to a warp-wide instruction, and what it takes away.
struct Operands {
    unsigned a[4], b[2], row, registers[4];
    float c[4], d[4];
    // wmma: left and right operand and sums, an address and its stride.
    float left[8], right[8], sums[8];
    void const *address;
    unsigned stride;
};

struct Warp {
    std::string instruction;
    unsigned arrived = 0;
    Operands lanes[LANES];
};

// The unit's warp.
Warp &own_warp();
// Waits for the other lanes; whether this one is the last, and must execute for all, then call `go_on`.
bool last_to_come(std::string const &instruction, Operands const &own);
void go_on();

// Meets the other lanes of the warp; the last to come executes for all.
template <typename Execute> Operands &together(std::string const &instruction, Operands const &own, Execute execute) {
    if (last_to_come(instruction, own)) {
        unsigned last = unit;
        execute(own_warp(), last - last % LANES);
        unit = last;
        go_on();
    }
    return own_warp().lanes[unit % LANES];
}

} // namespace emu
