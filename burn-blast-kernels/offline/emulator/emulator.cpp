// Runs the blocks of one launch one after the other, in a shuffled order, the units of a block as coroutines.
//
// usage: PROGRAM JOB RESULT
// JOB holds, as 64-bit little-endian numbers: grid x, y, z; units of a block; bytes of shared memory; bytes
// of scalars; number of buffers; for each its size and whether it is written. Then come the scalars and the
// contents. RESULT receives the contents of the written buffers, and the counts of `Traffic`.
#include "emulator.h"
#include "half.h"
#include "memory.h"
#include "warp.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <unistd.h>
#include <ucontext.h>

// Last: they declare names of CUDA that the headers above define in `std` as well.
#include "emulator.h"
#include "half.h"
#include "memory.h"

// Calls the kernel; written next to it.
extern "C" void emu_launch(char *const *buffers, char const *info, size_t info_bytes);

dim3 threadIdx, blockIdx, gridDim;

namespace emu {

unsigned unit;
uint32_t epoch;

namespace {

size_t const STACK = 1 << 20;

struct Copy {
    unsigned to;
    char const *from;
    unsigned bytes, from_bytes;
};

enum class State { Ready, AtWarp, AtBarrier, Done };

struct Unit {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    State state;
    // Copies not yet in a group, and groups not yet waited for, oldest first.
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
    // Where it copied to in this block.
    std::vector<uintptr_t> copies;
};

std::vector<Unit> units;
std::vector<Warp> warps;
ucontext_t scheduler;
std::vector<char *> arguments;
std::vector<char> info;

// What warps ask of shared memory, which serves eight vectors of 16 bytes at a time, if no two are in the same banks.
struct Traffic {
    uint64_t reads, read_wavefronts, writes, write_wavefronts;
} traffic;

// Turns in which shared memory serves these vectors.
unsigned wavefronts(std::vector<uintptr_t> addresses) {
    std::sort(addresses.begin(), addresses.end());
    addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
    unsigned turns[8] = {}, most = 0;
    for (uintptr_t address : addresses) most = std::max(most, ++turns[address / 16 % 8]);
    return most;
}

// Adds the copies of a block. Lanes make as many copies as each other, also beyond the edge of a tensor, where they write zeros;
// the n-th of eight lanes are made together.
void count_traffic() {
    for (unsigned first = 0; first < units.size(); first += 8) {
        for (size_t at = 0;; at++) {
            std::vector<uintptr_t> found;
            for (unsigned i = first; i < first + 8; i++) {
                if (at < units[i].copies.size()) found.push_back(units[i].copies[at]);
            }
            if (found.empty()) break;
            traffic.writes++;
            traffic.write_wavefronts += wavefronts(found);
        }
    }
}

void yield(State state) {
    units[unit].state = state;
    swapcontext(&units[unit].context, &scheduler);
}

void unit_main() {
    emu_launch(arguments.data(), info.data(), info.size());
    yield(State::Done);
}

// c + a b, where lane l has rows l / 4 and l / 4 + 8 of a and column l / 4 of b. `a_at(lane, i)` gives the
// register and element of a's i-th element; both functions return the value.
template <typename Left, typename Right>
void multiply(Warp &warp, unsigned depth, Left left, Right right) {
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned col = 0; col < 8; col++) {
            unsigned at = row / 8 * 2 + col % 2;
            Operands &out = warp.lanes[row % 8 * 4 + col / 2];
            float sum = out.c[at];
            for (unsigned k = 0; k < depth; k++) sum += left(row, k) * right(k, col);
            out.d[at] = sum;
        }
    }
}

void mma_16bit(std::string const &name, float (*widen)(unsigned short), float *d, unsigned const *a,
               unsigned const *b, float const *c) {
    Operands own = {};
    std::memcpy(own.a, a, sizeof own.a);
    std::memcpy(own.b, b, sizeof own.b);
    std::memcpy(own.c, c, sizeof own.c);
    Operands &done = together(name, own, [&](Warp &warp, unsigned) {
        auto left = [&](unsigned row, unsigned k) {
            unsigned word = warp.lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
            return widen((unsigned short)(word >> k % 2 * 16));
        };
        auto right = [&](unsigned k, unsigned col) {
            unsigned word = warp.lanes[col * 4 + k % 8 / 2].b[k / 8];
            return widen((unsigned short)(word >> k % 2 * 16));
        };
        multiply(warp, 16, left, right);
    });
    std::memcpy(d, done.d, sizeof done.d);
}

void start_units() {
    for (Unit &u : units) {
        getcontext(&u.context);
        u.context.uc_stack.ss_sp = u.stack.get();
        u.context.uc_stack.ss_size = STACK;
        u.context.uc_link = nullptr;
        makecontext(&u.context, unit_main, 0);
        u.state = State::Ready;
        u.open.clear();
        u.groups.clear();
        u.copies.clear();
    }
    for (Warp &warp : warps) warp.arrived = 0;
}

// Runs every unit that can go on; whether there was one.
bool run_ready() {
    bool ran = false;
    for (unsigned i = 0; i < units.size(); i++) {
        if (units[i].state != State::Ready) continue;
        unit = i;
        threadIdx = {i, 0, 0};
        swapcontext(&scheduler, &units[i].context);
        ran = true;
    }
    return ran;
}

void run_block() {
    shared->clear();
    epoch = 1;
    start_units();
    for (;;) {
        if (run_ready()) continue;
        bool all_done = true;
        for (Unit &u : units) {
            if (u.state == State::AtWarp) fault("part of a warp waits for lanes that went another way");
            all_done &= u.state == State::Done;
        }
        if (all_done) return count_traffic();
        epoch++;
        for (Unit &u : units) {
            if (u.state == State::AtBarrier) u.state = State::Ready;
        }
    }
}

void access(void const *address, size_t bytes, bool write) {
    if (shared->near(address)) {
        size_t at = size_t(static_cast<char const *>(address) - shared->begin());
        write ? shared->write(at, bytes, "a store") : shared->read(at, bytes, "a load");
    } else if (buffers.near(address)) {
        buffers.check(address, bytes, write);
    }
}

} // namespace

bool last_to_come(std::string const &instruction, Operands const &own) {
    Warp &warp = own_warp();
    if (warp.arrived && warp.instruction != instruction) {
        fault("lanes of a warp are at different instructions: " + warp.instruction + " and " + instruction);
    }
    warp.instruction = instruction;
    warp.lanes[unit % LANES] = own;
    if (++warp.arrived == LANES) return true;
    yield(State::AtWarp);
    return false;
}

Warp &own_warp() { return warps[unit / LANES]; }

void go_on() {
    own_warp().arrived = 0;
    for (unsigned lane = 0; lane < LANES; lane++) units[unit - unit % LANES + lane].state = State::Ready;
}

void fault(std::string const &what) {
    std::fprintf(stderr, "fault in block %u, unit %u: %s\n", blockIdx.x, unit, what.c_str());
    std::fflush(stderr);
    _exit(3);
}

char *shared_memory() { return shared->begin(); }

unsigned shared_offset(void const *address) {
    return unsigned(static_cast<char const *>(address) - shared->begin());
}

void cp_async(unsigned to, void const *from, unsigned bytes, unsigned from_bytes) {
    if (to % bytes || reinterpret_cast<uintptr_t>(from) % bytes) {
        fault("cp.async of " + std::to_string(bytes) + " bytes is not aligned to as many");
    }
    if (from_bytes > bytes) fault("cp.async reads more than it writes");
    if (from_bytes) buffers.check(from, from_bytes, false);
    shared->start_copy(to, bytes);
    units[unit].copies.push_back(to);
    units[unit].open.push_back({to, static_cast<char const *>(from), bytes, from_bytes});
}

void cp_async_commit() {
    units[unit].groups.push_back(std::move(units[unit].open));
    units[unit].open.clear();
}

void cp_async_wait(unsigned groups_in_flight) {
    auto &groups = units[unit].groups;
    while (groups.size() > groups_in_flight) {
        for (Copy const &copy : groups.front()) {
            shared->finish_copy(copy.to, copy.from, copy.from_bytes, copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

void ldmatrix(unsigned *registers, unsigned count, bool transposed, unsigned row) {
    Operands own = {};
    own.row = row;
    std::string name = "ldmatrix.x" + std::to_string(count) + (transposed ? ".trans" : "");
    Operands &done = together(name, own, [&](Warp &warp, unsigned first) {
        for (unsigned matrix = 0; matrix < count; matrix++) {
            uint16_t cells[8][8];
            std::vector<uintptr_t> lines;
            for (unsigned line = 0; line < 8; line++) lines.push_back(warp.lanes[matrix * 8 + line].row);
            traffic.reads++;
            traffic.read_wavefronts += wavefronts(lines);
            for (unsigned line = 0; line < 8; line++) {
                unsigned lane = matrix * 8 + line;
                unit = first + lane;
                unsigned at = warp.lanes[lane].row;
                if (at % 16) fault("a line of ldmatrix does not start at 16 bytes");
                shared->read(at, 16, "ldmatrix");
                std::memcpy(cells[line], shared->begin() + at, 16);
            }
            for (unsigned lane = 0; lane < LANES; lane++) {
                unsigned i = lane / 4, j = lane % 4 * 2;
                unsigned low = transposed ? cells[j][i] : cells[i][j];
                unsigned high = transposed ? cells[j + 1][i] : cells[i][j + 1];
                warp.lanes[lane].registers[matrix] = low | high << 16;
            }
        }
    });
    std::memcpy(registers, done.registers, count * sizeof(unsigned));
}

void mma_m16n8k16_f16(float *d, unsigned const *a, unsigned const *b, float const *c) {
    mma_16bit("mma.m16n8k16.f16", f16_to_float, d, a, b, c);
}

void mma_m16n8k16_bf16(float *d, unsigned const *a, unsigned const *b, float const *c) {
    mma_16bit("mma.m16n8k16.bf16", bf16_to_float, d, a, b, c);
}

void mma_m16n8k8_tf32(float *d, unsigned const *a, unsigned const *b, float const *c) {
    Operands own = {};
    std::memcpy(own.a, a, sizeof own.a);
    std::memcpy(own.b, b, sizeof own.b);
    std::memcpy(own.c, c, sizeof own.c);
    Operands &done = together("mma.m16n8k8.tf32", own, [&](Warp &warp, unsigned) {
        auto left = [&](unsigned row, unsigned k) {
            return tf32_to_float(warp.lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]);
        };
        auto right = [&](unsigned k, unsigned col) {
            return tf32_to_float(warp.lanes[col * 4 + k % 4].b[k / 4]);
        };
        multiply(warp, 8, left, right);
    });
    std::memcpy(d, done.d, sizeof done.d);
}

} // namespace emu

void __syncthreads() { emu::yield(emu::State::AtBarrier); }

// The kernel is compiled with -fsanitize=thread, which calls these at every access. No sanitizer is linked.
#define HOOK(bytes)                                                                                           \
    extern "C" void __tsan_read##bytes(void *at) { emu::access(at, bytes, false); }                          \
    extern "C" void __tsan_write##bytes(void *at) { emu::access(at, bytes, true); }
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16)
#define HOOK_UNALIGNED(bytes)                                                                                 \
    extern "C" void __tsan_unaligned_read##bytes(void *at) { emu::access(at, bytes, false); }                \
    extern "C" void __tsan_unaligned_write##bytes(void *at) { emu::access(at, bytes, true); }
HOOK_UNALIGNED(2) HOOK_UNALIGNED(4) HOOK_UNALIGNED(8) HOOK_UNALIGNED(16)
extern "C" void __tsan_read_range(void *at, size_t bytes) { emu::access(at, bytes, false); }
extern "C" void __tsan_write_range(void *at, size_t bytes) { emu::access(at, bytes, true); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}

int main(int count, char **arguments) {
    using namespace emu;
    if (count != 3) {
        std::fprintf(stderr, "usage: %s JOB RESULT\n", arguments[0]);
        return 2;
    }
    std::ifstream job(arguments[1], std::ios::binary);
    auto number = [&] {
        uint64_t value = 0;
        job.read(reinterpret_cast<char *>(&value), 8);
        return value;
    };
    gridDim.x = unsigned(number()), gridDim.y = unsigned(number()), gridDim.z = unsigned(number());
    units = std::vector<Unit>(number());
    warps = std::vector<Warp>(units.size() / LANES);
    shared = new SharedMemory(number());
    info.resize(number());
    std::vector<uint64_t> sizes(number());
    std::vector<bool> writable;
    for (uint64_t &size : sizes) {
        size = number();
        writable.push_back(number());
    }
    job.read(info.data(), std::streamsize(info.size()));
    buffers.allocate(sizes, writable);
    for (size_t i = 0; i < sizes.size(); i++) {
        job.read(buffers[i], std::streamsize(sizes[i]));
        emu::arguments.push_back(buffers[i]);
    }
    if (!job || units.size() % LANES) {
        std::fprintf(stderr, "the job is cut short, or its blocks are not whole warps\n");
        return 2;
    }
    // In an order that no kernel can rely on, but the same every time.
    std::vector<dim3> blocks;
    for (unsigned z = 0; z < gridDim.z; z++)
        for (unsigned y = 0; y < gridDim.y; y++)
            for (unsigned x = 0; x < gridDim.x; x++) blocks.push_back({x, y, z});
    uint32_t draw = 7;
    for (size_t left = blocks.size(); left > 1; left--) {
        draw = draw * 1664525 + 1013904223;
        std::swap(blocks[left - 1], blocks[(draw >> 8) % left]);
    }
    for (dim3 const &block : blocks) {
        blockIdx = block;
        run_block();
    }
    std::ofstream result(arguments[2], std::ios::binary);
    for (size_t i = 0; i < sizes.size(); i++) {
        if (writable[i]) result.write(buffers[i], std::streamsize(sizes[i]));
    }
    result.write(reinterpret_cast<char const *>(&traffic), sizeof traffic);
    return result.flush() ? 0 : 2;
}
