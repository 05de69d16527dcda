/* PTX for a real card; the comments are for a simulated one. */
#ifndef KERNELS_H
#define KERNELS_H

static const char kernels[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    "// simulated kernel empty block_ns=0 parameters=8\n"
    "// simulated kernel matmul block_ns=40000 blocks_per_multiprocessor=8 parameters=8,8,8,4\n"
    "// simulated kernel stream block_ns=60000 blocks_per_multiprocessor=8 parameters=8,8,4\n"
    ".visible .entry empty(.param .u64 unused)\n{\nret;\n}\n"

    /* c[row][column] = sum over k of a[row][k] * b[k][column], matrices of n x n floats, n a multiple of 16, blocks of 16 x 16 threads */
    ".visible .entry matmul(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)\n{\n"
    ".reg .pred %more;\n.reg .u32 %n, %row, %column, %k, %size;\n.reg .u64 %a, %b, %c, %offset, %step;\n.reg .f32 %x, %y, %sum;\n"
    "ld.param.u64 %a, [a];\nld.param.u64 %b, [b];\nld.param.u64 %c, [c];\nld.param.u32 %n, [n];\n"
    "mov.u32 %row, %ctaid.y;\nmov.u32 %size, %ntid.y;\nmov.u32 %k, %tid.y;\nmad.lo.u32 %row, %row, %size, %k;\n"
    "mov.u32 %column, %ctaid.x;\nmov.u32 %size, %ntid.x;\nmov.u32 %k, %tid.x;\nmad.lo.u32 %column, %column, %size, %k;\n"
    "mul.lo.u32 %k, %row, %n;\nmul.wide.u32 %offset, %k, 4;\nadd.u64 %a, %a, %offset;\nadd.u64 %c, %c, %offset;\n"
    "mul.wide.u32 %offset, %column, 4;\nadd.u64 %b, %b, %offset;\nadd.u64 %c, %c, %offset;\n"
    "mul.wide.u32 %step, %n, 4;\nmov.u32 %k, 0;\nmov.f32 %sum, 0f00000000;\n"
    "AGAIN:\nld.global.f32 %x, [%a];\nld.global.f32 %y, [%b];\nfma.rn.f32 %sum, %x, %y, %sum;\n"
    "add.u64 %a, %a, 4;\nadd.u64 %b, %b, %step;\nadd.u32 %k, %k, 1;\nsetp.lt.u32 %more, %k, %n;\n@%more bra AGAIN;\n"
    "st.global.f32 [%c], %sum;\nret;\n}\n"

    /* to[i] = 2 * from[i] for all i < count */
    ".visible .entry stream(.param .u64 to, .param .u64 from, .param .u32 count)\n{\n"
    ".reg .pred %more;\n.reg .u32 %i, %count, %step, %size, %place;\n.reg .u64 %to, %from, %offset, %at;\n.reg .f32 %x;\n"
    "ld.param.u64 %to, [to];\nld.param.u64 %from, [from];\nld.param.u32 %count, [count];\n"
    "mov.u32 %i, %ctaid.x;\nmov.u32 %size, %ntid.x;\nmov.u32 %place, %tid.x;\nmad.lo.u32 %i, %i, %size, %place;\n"
    "mov.u32 %step, %nctaid.x;\nmul.lo.u32 %step, %step, %size;\n"
    "NEXT:\nsetp.ge.u32 %more, %i, %count;\n@%more bra END;\n"
    "mul.wide.u32 %offset, %i, 4;\nadd.u64 %at, %from, %offset;\nld.global.f32 %x, [%at];\nadd.f32 %x, %x, %x;\n"
    "add.u64 %at, %to, %offset;\nst.global.f32 [%at], %x;\nadd.u32 %i, %i, %step;\nbra NEXT;\n"
    "END:\nret;\n}\n";

#endif
