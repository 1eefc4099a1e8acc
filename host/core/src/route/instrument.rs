//! Puts a meter into every loop of an expression, so that no message can make it run for long.
//!
//! Expressions always end, but two nested comprehensions over a hostile body of a megabyte would end after hours. Each step
//! of a loop therefore reads a variable, [`STEP`] or [`GROWING_STEP`], that ceases to exist when the share of work is
//! used up. It is read in a condition that the interpreter never defers: reading it in vain ends the evaluation.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::facts::{GROWING_STEP, STEP};
use super::types;

/// `expression` with a meter in each loop.
pub(crate) fn instrument(mut expression: IdedExpr) -> IdedExpr {
    visit(&mut expression);
    expression
}

fn visit(node: &mut IdedExpr) {
    for child in children(node) {
        visit(child);
    }
    if let Expr::Comprehension(comprehension) = &mut node.expr {
        meter(comprehension);
    }
}

fn children(node: &mut IdedExpr) -> Vec<&mut IdedExpr> {
    match &mut node.expr {
        Expr::Call(call) => call.target.as_deref_mut().into_iter().chain(&mut call.args).collect(),
        Expr::Comprehension(inner) => {
            let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } = &mut **inner;
            vec![iter_range, accu_init, loop_cond, loop_step, result]
        }
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(map) => map.entries.iter_mut().flat_map(|entry| entry_children(&mut entry.expr)).collect(),
        Expr::Struct(message) => message.entries.iter_mut().flat_map(|entry| entry_children(&mut entry.expr)).collect(),
        Expr::Select(select) => vec![&mut *select.operand],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_children(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&mut field.value],
        EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
    }
}

fn meter(comprehension: &mut ComprehensionExpr) {
    let variable = if grows(&mut comprehension.loop_step) { GROWING_STEP } else { STEP };
    if !matches!(comprehension.loop_cond.expr, Expr::Literal(_)) {
        let condition = std::mem::take(&mut comprehension.loop_cond);
        comprehension.loop_cond = metered(variable, condition);
        return;
    }
    // The interpreter appends in place only while the condition is a plain `true`: the meter goes into the step.
    let step = &mut comprehension.loop_step;
    if let Expr::Call(CallExpr { func_name, args, .. }) = &mut step.expr
        && let (operators::CONDITIONAL, [guard, ..]) = (func_name.as_str(), args.as_mut_slice())
    {
        *guard = metered(variable, std::mem::take(guard));
    } else if is_append(step) {
        let item = appended(step);
        let metered = item.map(|item| *item = metered(variable, std::mem::take(item)));
        debug_assert!(metered.is_some(), "a step of `map` appends one item");
    } else {
        *step = metered(variable, std::mem::take(step));
    }
}

/// Whether `node` is `@result + ...`, which only the parser writes, for `map` and `filter`: the interpreter appends in place.
fn is_append(node: &IdedExpr) -> bool {
    let is_accumulator = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if name.starts_with('@'));
    matches!(&node.expr, Expr::Call(call) if call.func_name == operators::ADD && call.args.first().is_some_and(is_accumulator))
}

/// The item of a step `@result + [item]`.
fn appended(step: &mut IdedExpr) -> Option<&mut IdedExpr> {
    let Expr::Call(call) = &mut step.expr else { return None };
    let Expr::List(list) = &mut call.args.last_mut()?.expr else { return None };
    list.elements.first_mut()
}

/// Whether evaluating `node` can make strings longer than those it starts from, or many of them.
fn grows(node: &mut IdedExpr) -> bool {
    let here = match &node.expr {
        Expr::Call(call) => {
            call.func_name == operators::ADD && !is_append(node)
                || types::find(&call.func_name, call.target.is_some()).is_some_and(|function| function.grows)
        }
        _ => false,
    };
    here || children(node).into_iter().any(grows)
}

/// `variable ? node : node`, which is `node` while there is work left.
fn metered(variable: &str, node: IdedExpr) -> IdedExpr {
    let id = node.id;
    let of = |expr| IdedExpr { id, expr };
    let args = vec![of(Expr::Ident(variable.to_owned())), node, of(Expr::Literal(LiteralValue::Null))];
    of(Expr::Call(CallExpr { func_name: operators::CONDITIONAL.to_owned(), target: None, args }))
}
