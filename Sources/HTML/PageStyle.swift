/// How pages look: light or dark as the reader's system is, and down to the width of a phone.
enum PageStyle {
    /// Colours of kinds; a chart has at most so many, the last for whatever is left.
    static let colorCount = 7

    static let sheet = """
        :root{color-scheme:light dark;--page:#f6f7f9;--surface:#fff;--line:#dfe3e8;--ink:#1b2129;--soft:#5a6572;--warn:#b3261e;
        --c0:#2f6fbf;--c1:#d5722a;--c2:#2b9470;--c3:#8259c4;--c4:#c24a78;--c5:#93802c;--c6:#7d8794}
        @media(prefers-color-scheme:dark){:root{--page:#12161b;--surface:#1b2128;--line:#323b45;--ink:#e7ebf0;--soft:#9da8b5;--warn:#ff8a80;
        --c0:#6aa3ea;--c1:#e8975a;--c2:#55bd97;--c3:#ae90ea;--c4:#e37fa7;--c5:#c0ad5e;--c6:#8c96a4}}
        *{box-sizing:border-box}
        body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
        main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
        h1{margin:0;font-size:26px;line-height:1.25;overflow-wrap:anywhere}
        h2{margin:0 0 4px;font-size:17px}
        h3{margin:12px 0 4px;font-size:14px;color:var(--soft);font-weight:600}
        p{margin:0}
        .note{color:var(--soft);font-size:14px;overflow-wrap:anywhere}
        section{background:var(--surface);border:1px solid var(--line);border-radius:10px;padding:16px;margin-top:16px}
        ul.facts{margin:0;padding:0;list-style:none}
        ul.facts li{overflow-wrap:anywhere}
        .tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px}
        .tile b{display:block;font-size:22px;line-height:1.3;font-weight:650;font-variant-numeric:tabular-nums}
        .tile span{color:var(--soft);font-size:13px}
        .scroll{overflow-x:auto;margin-top:8px}
        .tiles+.note{margin-top:10px}
        table{border-collapse:collapse;width:100%;font-size:13px}
        th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--line);vertical-align:middle;white-space:nowrap}
        th{color:var(--soft);font-weight:600}
        th:last-child,td:last-child{padding-right:0}
        tr:last-child td{border-bottom:0}
        td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
        td.name{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}
        td.wrap{white-space:pre-wrap;overflow-wrap:anywhere;min-width:160px}
        td.warn{color:var(--warn);font-weight:650}
        .key{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:8px}
        .shares{display:flex;height:22px;border-radius:5px;overflow:hidden;margin:10px 0 4px;gap:2px}
        .shares i{display:block;min-width:2px}
        .bar{display:block;height:8px;border-radius:4px;background:var(--c0);min-width:2px}
        td.bars{width:22%;min-width:70px}
        .map{position:relative;width:100%;aspect-ratio:16/9;margin-top:10px}
        .cell{position:absolute;padding:1px;overflow:hidden}
        .cell>div{width:100%;height:100%;border-radius:4px;overflow:hidden;display:flex;flex-direction:column;background:var(--page);
        border:1px solid var(--line)}
        .cell b{font-size:11px;line-height:16px;font-weight:600;padding:0 5px;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;flex:none}
        .cell.small b{display:none}
        .cell p{display:flex;flex:1;min-height:0;gap:1px}
        .cell i{display:block}
        .legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;margin-top:8px}
        svg.histogram{display:block;width:98px;height:24px}
        svg.histogram rect{fill:var(--c0)}
        svg.histogram line{stroke:var(--line)}
        .heat{display:grid;gap:2px;width:max-content;min-width:min(100%,calc((var(--m) + 8)*22px));font-size:11px;line-height:18px;
        grid-auto-flow:column;grid-template-rows:repeat(calc(var(--n) + 1),20px);grid-template-columns:max-content;
        grid-auto-columns:minmax(18px,28px)}
        .heat span{color:var(--soft);white-space:nowrap;overflow:hidden}
        .heat .corner,.heat .kind{padding-right:8px;position:sticky;left:0;background:var(--surface);z-index:1;
        font-family:ui-monospace,Menlo,Consolas,monospace}
        .heat .corner{font-family:inherit}
        .heat .step{text-align:center}
        .heat i{position:relative;display:block;border-radius:3px;overflow:hidden;font-style:normal}
        .heat i.none{background:none}
        .heat i b{position:absolute;inset:0}
        .heat i u{position:absolute;inset:0;text-align:center;text-decoration:none;font-weight:700;color:var(--surface)}
        .k0{background:var(--c0)}.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}
        .k4{background:var(--c4)}.k5{background:var(--c5)}.k6{background:var(--c6)}
        @media(max-width:600px){.heat{grid-auto-flow:row;grid-template-rows:max-content;grid-auto-rows:20px;width:100%;min-width:0;
        grid-template-columns:max-content repeat(var(--n),minmax(16px,1fr))}
        .heat .kind{writing-mode:vertical-rl;transform:rotate(180deg);position:static;width:auto;padding:0;justify-self:center}
        .heat .corner,.heat .kind{grid-row:1;height:max-content;align-self:end}
        .heat .step{text-align:right;padding-right:6px}
        main{padding:16px 10px 32px}section{padding:12px}h1{font-size:21px}.map{aspect-ratio:4/5}
        .tiles{grid-template-columns:repeat(2,1fr)}.tile b{font-size:18px}.cell b span{display:none}.cell b{padding:0 3px;text-align:center}
        table{font-size:12px}th,td{padding-right:8px}td.name{white-space:normal;overflow-wrap:anywhere;min-width:140px}}
        """
}
